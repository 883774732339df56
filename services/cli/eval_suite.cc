#include "services/cli/eval_suite.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/text_record.h"
#include "model/tokenizer/utf8.h"
#include "nlohmann/json.hpp"

namespace clamor::cli {
namespace {

using nlohmann::json;

constexpr size_t kMostOfName = 64;  // bytes

// The categories of Spec-Bench's file that are families; those of MT-bench are one together.
constexpr const char* kFamilies[] = {"translation", "summarization", "qa", "math_reasoning", "rag"};
constexpr const char* kMtBench[] = {"writing", "roleplay",   "reasoning", "math",
                                    "coding",  "extraction", "stem",      "humanities"};

absl::StatusOr<std::string> CheckText(const json* value, const std::string& name) {
  if (value == nullptr) return absl::InvalidArgumentError(absl::StrCat("field '", name, "' is missing"));
  if (!value->is_string() || value->get_ref<const std::string&>().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("field '", name, "' is ", Quote(*value), ", must be a string that is not empty"));
  }
  return value->get<std::string>();
}

// A string field that is not empty.
absl::StatusOr<std::string> Text(const json& object, const char* key) {
  const auto found = object.find(key);
  return CheckText(found == object.end() ? nullptr : &*found, key);
}

// Whether a table, and a terminal, can show it.
bool IsName(const std::string& text) {
  return text.size() <= kMostOfName && FindInvalidUtf8(text) == std::nullopt &&
         std::none_of(text.begin(), text.end(), [](char c) { return absl::ascii_iscntrl(c); });
}

// A name for people: any number will do, and any string that can be shown.
std::string IdOf(const json& object, const char* key, int64_t line) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_primitive()) return absl::StrCat(line);
  const std::string text = found->is_string() ? found->get<std::string>() : found->dump();
  return IsName(text) ? text : absl::StrCat(line);
}

absl::StatusOr<std::string> FamilyOf(const std::string& category) {
  const auto is = [&](const char* name) { return category == name; };
  if (std::any_of(std::begin(kMtBench), std::end(kMtBench), is)) return std::string("mt_bench");
  if (std::any_of(std::begin(kFamilies), std::end(kFamilies), is)) return category;
  return absl::InvalidArgumentError(
      absl::StrCat("field 'category' is ", Quote(category), ", which Spec-Bench does not have"));
}

absl::StatusOr<SuitePrompt> FromSpecBench(const json& object, int64_t line) {
  SuitePrompt prompt{.id = IdOf(object, "question_id", line), .line = line};
  CLAMOR_ASSIGN_OR_RETURN(const std::string category, Text(object, "category"));
  CLAMOR_ASSIGN_OR_RETURN(prompt.category, FamilyOf(category));
  const auto turns = object.find("turns");
  const bool some = turns != object.end() && turns->is_array() && !turns->empty();
  if (turns != object.end() && !some) {
    return absl::InvalidArgumentError(
        absl::StrCat("field 'turns' is ", Quote(*turns), ", must be an array that is not empty"));
  }
  CLAMOR_ASSIGN_OR_RETURN(prompt.prompt,
                          CheckText(some ? &turns->front() : nullptr, some ? "turns[0]" : "turns"));
  return prompt;
}

absl::StatusOr<SuitePrompt> FromField(const json& object, int64_t line, const char* field, const char* id,
                                      const char* category) {
  SuitePrompt prompt{.id = IdOf(object, id, line), .category = category, .line = line};
  CLAMOR_ASSIGN_OR_RETURN(prompt.prompt, Text(object, field));
  return prompt;
}

absl::StatusOr<SuitePrompt> FromOwn(const json& object, int64_t line) {
  SuitePrompt prompt{.id = IdOf(object, "id", line), .category = "prompts", .line = line};
  if (object.contains("category")) {
    CLAMOR_ASSIGN_OR_RETURN(prompt.category, Text(object, "category"));
    if (!IsName(prompt.category)) {
      return absl::InvalidArgumentError(absl::StrCat("field 'category' is ", Quote(prompt.category),
                                                     ", must have at most ", kMostOfName,
                                                     " bytes and no control characters"));
    }
  }
  if (object.contains("messages")) {
    CLAMOR_ASSIGN_OR_RETURN(TextRecord record, ReadRecord(object));
    prompt.prompt = std::move(record.messages);
  } else if (object.contains("prompt")) {
    CLAMOR_ASSIGN_OR_RETURN(prompt.prompt, Text(object, "prompt"));
  } else {
    return absl::InvalidArgumentError("has neither the field 'prompt' nor 'messages'");
  }
  return prompt;
}

absl::StatusOr<SuitePrompt> FromLine(Suite suite, const std::string& text, int64_t line) {
  CLAMOR_ASSIGN_OR_RETURN(const json object, ParseRecord(text));
  switch (suite) {
    case Suite::kSpecBench:
      return FromSpecBench(object, line);
    case Suite::kHumanEval:
      return FromField(object, line, "prompt", "task_id", "humaneval");
    case Suite::kGsm8k:
      return FromField(object, line, "question", "id", "gsm8k");
    case Suite::kPerplexity:
      if (object.contains("prompt") || object.contains("messages")) return FromOwn(object, line);
      return FromField(object, line, "text", "id", "documents");
    case Suite::kPrompts:
      return FromOwn(object, line);
  }
  return absl::InternalError("no such suite");
}

}  // namespace

const std::vector<std::string>& SuiteNames() {
  static const auto& names =
      *new std::vector<std::string>{"spec_bench", "humaneval", "gsm8k", "perplexity", "prompts"};
  return names;
}

Suite SuiteNamed(const std::string& name) {
  const auto& names = SuiteNames();
  return static_cast<Suite>(std::find(names.begin(), names.end(), name) - names.begin());
}

absl::StatusOr<std::vector<SuitePrompt>> ReadSuite(Suite suite, const std::string& path) {
  std::error_code ignored;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot read"));
  }
  const bool plain_text =
      suite == Suite::kPrompts && !absl::EndsWith(path, ".jsonl") && !absl::EndsWith(path, ".json");
  std::vector<SuitePrompt> prompts;
  std::set<std::string> categories;
  std::string text;
  for (int64_t line = 1; std::getline(file, text); ++line) {
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.find_first_not_of(" \t") == std::string::npos) continue;
    absl::StatusOr<SuitePrompt> prompt =
        plain_text ? SuitePrompt{absl::StrCat(line), "prompts", line, text} : FromLine(suite, text, line);
    if (prompt.ok() && categories.insert(prompt->category).second && categories.size() > kMaxCategories) {
      prompt = absl::InvalidArgumentError(absl::StrCat("field 'category' is the file's ", categories.size(),
                                                       "th different one, limit is ", kMaxCategories));
    }
    if (!prompt.ok()) {
      return absl::Status(prompt.status().code(),
                          absl::StrCat(path, ":", line, ": ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
  }
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": cannot read"));
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": holds no prompt"));
  return prompts;
}

}  // namespace clamor::cli
