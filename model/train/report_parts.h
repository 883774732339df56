// Parts of a page that a report and a comparison share. Pure functions; names and values may hold anything.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "model/train/training_log.h"
#include "nlohmann/json.hpp"

namespace clamor {

// A whole HTML document. `title` is text, `body` is HTML.
std::string RenderPage(const std::string& title, const std::string& body);

std::string Bold(const std::string& text);

// HTML under a heading; empty if it is.
std::string Section(const std::string& heading, const std::string& html);

// A field's value as text of bounded length. `grouped`: whole numbers as amounts, 7,273; else as in JSON.
std::string FieldText(const std::string& name, const nlohmann::json& value, bool grouped);

// A table of the fields of an object under a heading, the first `most` of them; empty if it has none.
std::string RenderFields(const std::string& heading, const nlohmann::json& fields, bool grouped, size_t most);

// Texts of the same prompts side by side. A column is one evaluation.
struct SampleColumn {
  std::string heading;
  const LoggedEvaluation* evaluation;  // borrowed for the call
};
std::string RenderSamples(absl::Span<const SampleColumn> columns, size_t most_prompts);

}  // namespace clamor
