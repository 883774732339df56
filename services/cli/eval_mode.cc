#include "services/cli/eval_mode.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"

namespace clamor::cli {
namespace {

constexpr char kPlainName[] = "plain";

// `flag`: of which an error speaks.
absl::StatusOr<EvalMode> Merged(const std::string& nodes, absl::string_view flag) {
  EvalMode mode{.name = absl::StrCat("merged:", nodes)};
  if (nodes == "auto") return mode;
  int32_t& count = mode.speculation.nodes;
  if (!absl::SimpleAtoi(nodes, &count) || count < 1 || count > SpeculationOptions::kMaxNodes) {
    return UsageError(
        absl::StrCat(flag, ": '", nodes, "' must be auto or 1 to ", SpeculationOptions::kMaxNodes));
  }
  mode.name = absl::StrCat("merged:", count);  // "+8" is 8
  return mode;
}

absl::StatusOr<std::vector<EvalMode>> ParseMode(absl::string_view name,
                                                const std::vector<std::string>& nodes) {
  if (name == kPlainName) return std::vector<EvalMode>{{kPlainName, {.nodes = 0}}};
  if (name == "published") return std::vector<EvalMode>{{"published", {.shape = TreeShape::kPublished}}};
  std::vector<EvalMode> modes;
  if (name == "merged") {
    for (const std::string& count : nodes) {
      CLAMOR_ASSIGN_OR_RETURN(EvalMode mode, Merged(count, "--nodes"));
      modes.push_back(std::move(mode));
    }
    return modes;
  }
  if (!absl::ConsumePrefix(&name, "merged:")) {
    return UsageError(absl::StrCat("--modes: '", name, "' must be plain, published, merged or merged:NODES"));
  }
  CLAMOR_ASSIGN_OR_RETURN(EvalMode mode, Merged(std::string(name), "--modes"));
  modes.push_back(std::move(mode));
  return modes;
}

}  // namespace

absl::StatusOr<std::vector<EvalMode>> ParseModes(const std::vector<std::string>& names,
                                                 const std::vector<std::string>& nodes) {
  std::vector<EvalMode> modes;
  for (const std::string& name : names) {
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<EvalMode> parsed, ParseMode(name, nodes));
    for (const EvalMode& mode : parsed) {
      const bool known = std::any_of(modes.begin(), modes.end(),
                                     [&](const EvalMode& other) { return other.name == mode.name; });
      if (known) return UsageError(absl::StrCat("--modes: ", mode.name, " is given twice"));
      modes.push_back(mode);
    }
  }
  if (modes.empty() || modes.size() > kMaxModes) {
    return UsageError(absl::StrCat("--modes: makes ", modes.size(), " modes, must be 1 to ", kMaxModes));
  }
  return modes;
}

std::optional<size_t> PlainMode(const std::vector<EvalMode>& modes) {
  const auto plain = std::find_if(modes.begin(), modes.end(),
                                  [](const EvalMode& mode) { return mode.speculation.nodes == 0; });
  if (plain == modes.end()) return std::nullopt;
  return static_cast<size_t>(plain - modes.begin());
}

}  // namespace clamor::cli
