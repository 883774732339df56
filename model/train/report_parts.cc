#include "model/train/report_parts.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/train/html_text.h"
#include "model/train/report_style.h"

namespace clamor {
namespace {

using nlohmann::json;

// What of a log goes on a page, in bytes.
constexpr size_t kMostOfName = 60;
constexpr size_t kMostOfValue = 200;
constexpr size_t kMostOfPrompt = 600;
constexpr size_t kMostOfText = 2000;

std::string Shortened(std::string_view text, size_t limit) {
  return absl::StrCat(std::string(CutUtf8(text, limit)), text.size() > limit ? "…" : "");
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

std::string UnboundedText(const std::string& name, const json& value, bool grouped) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_null()) return "–";
  if (value.is_number_integer() && absl::EndsWith(name, "_bytes")) return FormatBytes(value.get<int64_t>());
  if (value.is_number_integer() && grouped) return FormatCount(value.get<int64_t>());
  if (!value.is_array()) return Dump(value);
  std::string list;
  for (const json& element : value) {
    if (list.size() > kMostOfValue) break;
    absl::StrAppend(&list, list.empty() ? "" : ", ",
                    element.is_string() ? element.get<std::string>() : Dump(element));
  }
  return list;
}

}  // namespace

std::string RenderPage(const std::string& title, const std::string& body) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // Nothing from the log can be markup; if it ever were, it could neither run nor fetch anything from
      // elsewhere.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\">\n<title>",
      EscapeHtml(title), "</title>\n<style>", kReportStyle, "</style>\n</head>\n<body>\n<main>\n", body,
      "</main>\n<script>", kReportScript, "</script>\n</body>\n</html>\n");
}

std::string Bold(const std::string& text) { return absl::StrCat("<b>", EscapeHtml(text), "</b>"); }

std::string Section(const std::string& heading, const std::string& html) {
  return html.empty() ? "" : absl::StrCat("<h2>", heading, "</h2>\n", html);
}

std::string FieldText(const std::string& name, const json& value, bool grouped) {
  return Shortened(UnboundedText(name, value, grouped), kMostOfValue);
}

std::string RenderFields(const std::string& heading, const json& fields, bool grouped, size_t most) {
  if (!fields.is_object() || fields.empty()) return "";
  std::string html = absl::StrCat("<section><h3>", heading, "</h3>\n<table class=\"fields\"><tbody>\n");
  size_t rows = 0;
  for (const auto& [name, value] : fields.items()) {
    if (rows++ == most) break;
    absl::StrAppend(&html, "<tr><th scope=\"row\"><code>", EscapeHtml(Shortened(name, kMostOfName)),
                    "</code></th><td>", EscapeHtml(FieldText(name, value, grouped)), "</td></tr>\n");
  }
  return absl::StrCat(html, "</tbody></table></section>\n");
}

std::string RenderSamples(absl::Span<const SampleColumn> columns, size_t most_prompts) {
  if (columns.empty()) return "";
  const std::vector<TextSample>& prompts = columns.back().evaluation->samples;
  std::string html;
  for (size_t i = 0; i < prompts.size() && i < most_prompts; ++i) {
    absl::StrAppend(&html, "<article class=\"sample\"><p dir=\"auto\">",
                    EscapeHtml(Shortened(prompts[i].prompt, kMostOfPrompt)),
                    "</p>\n<div class=\"columns\">\n");
    for (const SampleColumn& column : columns) {
      const std::vector<TextSample>& samples = column.evaluation->samples;
      if (i >= samples.size() || samples[i].prompt != prompts[i].prompt) continue;
      absl::StrAppend(&html, "<div><h4>", EscapeHtml(column.heading),
                      "</h4><div class=\"text\" dir=\"auto\">",
                      EscapeHtml(Shortened(samples[i].text, kMostOfText)), "</div></div>\n");
    }
    absl::StrAppend(&html, "</div></article>\n");
  }
  return html;
}

}  // namespace clamor
