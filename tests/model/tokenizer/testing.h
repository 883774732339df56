// What the tests of this folder share: the golden model directories, and tokenizers made of patched files.
#pragma once

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"

namespace clamor::testing {

inline const std::vector<std::string>& GoldenModels() {
  static const auto& models =
      *new std::vector<std::string>{"tiny-llama", "tiny-mistral", "tiny-qwen2", "tiny-qwen3"};
  return models;
}

inline nlohmann::ordered_json ReadJson(const std::string& path) {
  std::ifstream in(path);
  auto json = nlohmann::ordered_json::parse(in, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << path;
  return json;
}

inline nlohmann::ordered_json Golden(const std::string& model) {
  return ReadJson(CLAMOR_TESTDATA "/" + model + "/golden.json");
}

inline TokenizerFiles FilesOf(const std::string& model) {
  auto files = TokenizerFiles::Read(CLAMOR_TESTDATA "/" + model);
  EXPECT_TRUE(files.ok()) << files.status();
  return files.ok() ? *std::move(files) : TokenizerFiles();
}

inline std::unique_ptr<Tokenizer> LoadTokenizer(const TokenizerFiles& files) {
  auto tokenizer = Tokenizer::Load(files);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& model) {
  return LoadTokenizer(FilesOf(model));
}

// `files` with the top-level fields of `patch` in place of those of tokenizer.json; "model" is merged into
// the old one and "added_tokens" are appended.
inline TokenizerFiles Patched(TokenizerFiles files, const nlohmann::json& patch) {
  auto json = nlohmann::json::parse(files.contents.at("tokenizer.json"));
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      json[key].update(value);
    } else if (key == "added_tokens") {
      json[key].insert(json[key].end(), value.begin(), value.end());
    } else {
      json[key] = value;
    }
  }
  files.contents["tokenizer.json"] = json.dump();
  return files;
}

inline std::vector<int32_t> Ids(const nlohmann::ordered_json& json) {
  return json.get<std::vector<int32_t>>();
}

}  // namespace clamor::testing
