#include "model/train/report.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "model/train/html_text.h"
#include "model/train/report_charts.h"
#include "model/train/report_figures.h"
#include "model/train/report_parts.h"

namespace clamor {
namespace {

using nlohmann::json;

constexpr size_t kMostPrompts = 6;
constexpr size_t kMostOptions = 100;
constexpr size_t kMostFacts = 30;  // rows of the other tables
constexpr size_t kMostTiles = 4;   // for drafts

std::string AtStep(int64_t step) { return absl::StrCat("at step ", FormatCount(step)); }

// The field of an object, or null.
const json& Field(const json& object, const char* name) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto field = object.find(name);
  return field == object.end() ? kNull : *field;
}

int64_t Count(const json& value) {
  return value.is_number_integer() ? std::max<int64_t>(value.get<int64_t>(), 0) : 0;
}

// "fell from 2.90 to 2.34", to the same decimals as both.
std::string Change(const Course& course) {
  const std::string first = FormatNumber(course.first, 3), last = FormatNumber(course.last, 3);
  if (first == last) return absl::StrCat("stayed at ", last);
  return absl::StrCat(course.last < course.first ? "fell" : "rose", " from ", first, " to ", last);
}

std::string Headline(const Figures& figures) {
  const std::string over =
      absl::StrCat(" in ", FormatCount(figures.steps), figures.steps == 1 ? " step" : " steps");
  if (figures.heldout_loss.values > 1)
    return absl::StrCat("Held-out loss ", Change(figures.heldout_loss), over);
  if (figures.training_loss.values > 1) {
    return absl::StrCat("Training loss ", Change(figures.training_loss), over);
  }
  return figures.steps == 0 ? "No step has been logged yet" : absl::StrCat("A run of", over.substr(3));
}

// "Fine-tuned: NAME (FAMILY, 5.5 million parameters) on FILES (7,273 samples, 1.1 million tokens)."
std::string WhatWasTrained(const LoggedStart& start) {
  const auto add = [](std::vector<std::string>& parts, int64_t count, const char* noun) {
    if (count > 0) parts.push_back(absl::StrCat(FormatShortCount(count), " ", noun));
  };
  const auto in_brackets = [](const std::vector<std::string>& parts) {
    return parts.empty() ? "" : EscapeHtml(absl::StrCat(" (", absl::StrJoin(parts, ", "), ")"));
  };
  std::vector<std::string> model, data;
  if (const json& family = Field(start.model, "family"); family.is_string()) {
    model.push_back(FieldText("", family, false));
  }
  add(model, Count(Field(start.model, "parameters")), "parameters");
  add(data, Count(Field(start.data, "samples")), "samples");
  add(data, Count(Field(start.data, "tokens")), "tokens");
  add(data, Count(Field(start.data, "heldout_samples")), "held out");
  const json &name = Field(start.model, "name"), &files = Field(start.data, "files");
  const json& from_scratch = Field(start.model, "from_scratch");
  const std::string model_text =
      absl::StrCat(name.is_null() ? "a model" : Bold(FieldText("", name, false)), in_brackets(model));
  const std::string data_text =
      absl::StrCat(files.is_null() ? "its data" : Bold(FieldText("", files, false)), in_brackets(data));
  return absl::StrCat(from_scratch == true ? "Trained from nothing: " : "Fine-tuned: ", model_text, " on ",
                      data_text, ". ");
}

std::string HowItWasTrained(const LoggedStart& start) {
  const json &noise = Field(start.options, "noise"), &length = Field(start.options, "noise-length");
  if (!noise.is_string()) return "";
  if (noise == "none") return "Without noise. ";
  const std::string segments =
      length.is_number_integer() ? absl::StrCat(", segments of ", FieldText("", length, false)) : "";
  return absl::StrCat("With ", Bold(absl::StrCat(FieldText("", noise, false), " noise")), segments, ". ");
}

std::string HowItWent(const TrainingLog& log, const Figures& figures) {
  std::string text = std::isfinite(figures.seconds)
                         ? absl::StrCat("Training took ", Bold(FormatDuration(figures.seconds)))
                         : std::string();
  if (log.resumed_at.empty()) return text.empty() ? "" : absl::StrCat(text, ".");
  const size_t times = log.resumed_at.size();
  absl::StrAppend(&text, text.empty() ? "Resumed " : " and was resumed ",
                  times == 1 ? "" : absl::StrCat(FormatCount(static_cast<int64_t>(times)), " times, last "),
                  AtStep(log.resumed_at.back()), ".");
  return text;
}

std::string Status(const TrainingLog& log, const Figures& figures) {
  if (!log.end)
    return figures.steps == 0 ? "not begun" : absl::StrCat("not finished, log ends ", AtStep(figures.steps));
  return log.end->reason == "done" ? "done" : absl::StrCat("interrupted ", AtStep(log.end->step));
}

std::string RenderHeader(const TrainingLog& log, const Figures& figures) {
  std::string html = absl::StrCat(
      "<header>\n<p class=\"kicker\"><b>Clamor</b> training report · ",
      log.start && !log.start->time.empty() ? absl::StrCat(EscapeHtml(CutUtf8(log.start->time, 40)), " · ")
                                            : "",
      Status(log, figures), "</p>\n<h1>", Headline(figures), "</h1>\n<p class=\"deck\">",
      log.start ? WhatWasTrained(*log.start) + HowItWasTrained(*log.start) : "", HowItWent(log, figures),
      "</p>\n");
  if (figures.bad_losses > 0) {
    absl::StrAppend(&html, "<p class=\"alert\">The training loss was not a finite number in ",
                    FormatCount(figures.bad_losses),
                    figures.bad_losses == 1 ? " logged step, " : " logged steps, first ",
                    AtStep(figures.first_bad_step), ".</p>\n");
  }
  return absl::StrCat(html, "</header>\n");
}

std::string Tile(const std::string& name, const std::string& value, const std::string& more) {
  return absl::StrCat("<div><dt>", EscapeHtml(name), "</dt><dd>", Bold(value), EscapeHtml(more),
                      "</dd></div>\n");
}

std::string LossTiles(const Figures& figures) {
  const Course &training = figures.training_loss, &heldout = figures.heldout_loss;
  std::string html;
  if (training.values > 0) {
    html += Tile("Training loss", FormatNumber(training.last, 4),
                 absl::StrCat("smoothed; ", FormatNumber(training.first, 4), " at first"));
  }
  if (heldout.values > 0) {
    const std::string course =
        absl::StrCat(FormatNumber(heldout.first, 4), " at first, best ", FormatNumber(heldout.lowest, 4), " ",
                     AtStep(heldout.lowest_step));
    html += Tile("Held-out loss", FormatNumber(heldout.last, 4),
                 heldout.values > 1 ? course : AtStep(heldout.last_step));
  }
  return html;
}

std::string RenderKeyFigures(const Figures& figures) {
  std::string html = LossTiles(figures);
  for (size_t i = 0; i < figures.speeds.size() && i < kMostTiles; ++i) {
    const Course& course = figures.speeds[i].course;
    const std::string name = DraftName(figures.speeds[i].draft);
    html +=
        Tile("Tokens per forward", FormatNumber(course.last, 3),
             course.values > 1 ? absl::StrCat(name, "; ", FormatNumber(course.first, 3), " at first") : name);
  }
  if (std::isfinite(figures.tokens_per_second)) {
    html += Tile("Tokens per second", FormatCount(std::llround(figures.tokens_per_second)),
                 absl::StrCat("median; ", FormatShortCount(figures.tokens), " in all"));
  }
  if (std::isfinite(figures.seconds)) {
    html += Tile(
        "Wall time", FormatDuration(figures.seconds),
        absl::StrCat(FormatCount(figures.steps), " steps, ", FormatNumber(figures.epochs, 2), " epochs"));
  }
  if (figures.peak_memory_bytes > 0) html += Tile("Peak memory", FormatBytes(figures.peak_memory_bytes), "");
  return html.empty() ? "" : absl::StrCat("<dl class=\"figures\">\n", html, "</dl>\n");
}

// First, middle and last of the evaluations that have texts.
std::vector<SampleColumn> ThroughTime(const TrainingLog& log) {
  std::vector<SampleColumn> all;
  for (const LoggedEvaluation& evaluation : log.evaluations) {
    if (!evaluation.samples.empty())
      all.push_back({absl::StrCat("Step ", FormatCount(evaluation.step)), &evaluation});
  }
  if (all.size() <= 3) return all;
  return {all.front(), all[all.size() / 2], all.back()};
}

std::string RenderFacts(const LoggedStart& start) {
  const std::string left = RenderFields("Options", start.options, /*grouped=*/false, kMostOptions);
  const std::string right =
      absl::StrCat(RenderFields("Model", start.model, /*grouped=*/true, kMostFacts),
                   RenderFields("Data", start.data, /*grouped=*/true, kMostFacts),
                   RenderFields("Machine", start.machine, /*grouped=*/true, kMostFacts));
  if (left.empty() && right.empty()) return "";
  return absl::StrCat("<div class=\"facts\">\n<div>", left, "</div>\n<div>", right, "</div>\n</div>\n");
}

std::string RenderFooter(const TrainingLog& log) {
  if (log.skipped_lines == 0) return "<footer>Made from training.jsonl.</footer>\n";
  return absl::StrCat("<footer>Made from training.jsonl, of which ", FormatCount(log.skipped_lines),
                      log.skipped_lines == 1 ? " line" : " lines", " could not be used.</footer>\n");
}

}  // namespace

std::string RenderReport(const TrainingLog& log) {
  const Figures figures = FiguresOf(log);
  const std::string name = log.start ? FieldText("", Field(log.start->model, "name"), false) : "a run";
  return RenderPage(absl::StrCat("Training of ", name),
                    absl::StrCat(RenderHeader(log, figures), RenderKeyFigures(figures),
                                 Section("How it went", RenderCharts({Run{"", &log}})),
                                 Section("What it writes", RenderSamples(ThroughTime(log), kMostPrompts)),
                                 log.start ? Section("How it was set up", RenderFacts(*log.start)) : "",
                                 RenderFooter(log)));
}

}  // namespace clamor
