#include <utility>

#include "services/cli/eval_report.h"

namespace clamor::cli {
namespace {

using nlohmann::ordered_json;

ordered_json BySource(const std::array<int64_t, kSources>& counts) {
  ordered_json object = ordered_json::object();
  for (size_t i = 1; i < kSources; ++i) object[std::string(SourceName(static_cast<Source>(i)))] = counts[i];
  return object;
}

ordered_json CalibrationJson(const StepCounts& counts) {
  ordered_json buckets = ordered_json::array();
  for (size_t i = 0; i < counts.calibration.size(); ++i) {
    const StepCounts::Bucket& bucket = counts.calibration[i];
    const auto nodes = static_cast<double>(bucket.nodes);
    const bool last = i + 1 == StepCounts::kSurvivalBounds.size();
    buckets.push_back({{"from", StepCounts::kSurvivalBounds[i]},
                       {"to", last ? 1 : StepCounts::kSurvivalBounds[i + 1]},
                       {"nodes", bucket.nodes},
                       {"predicted", bucket.nodes > 0 ? bucket.predicted / nodes : NAN},
                       {"observed", bucket.nodes > 0 ? static_cast<double>(bucket.accepted) / nodes : NAN}});
  }
  return buckets;
}

ordered_json FiguresJson(const ModeFigures& figures) {
  const StepCounts& counts = figures.counts;
  ordered_json phases = ordered_json::object();
  for (size_t i = 0; i < kPhaseNames.size(); ++i) phases[kPhaseNames[i]] = counts.phase_seconds[i];
  return {{"prompts", figures.prompts},
          {"prompt_tokens", figures.prompt_tokens},
          {"tokens", figures.tokens},
          {"forwards", figures.forwards},
          {"tokens_per_forward", figures.tokens_per_forward()},
          {"draft_nodes", figures.draft_nodes},
          {"nodes_per_forward", figures.nodes_per_forward()},
          {"prefill_seconds", figures.prefill_seconds},
          {"decode_tokens", figures.decode_tokens},
          {"decode_seconds", figures.decode_seconds},
          {"tokens_per_second", figures.tokens_per_second()},
          {"ratio_median", figures.ratio_median},
          {"ratio_total", figures.ratio_total},
          {"compared", figures.compared},
          {"identical", figures.identical},
          {"undrafted_forwards", counts.undrafted},
          {"drafted_by_source", BySource(counts.drafted)},
          {"accepted_by_source", BySource(counts.accepted)},
          {"emitted_per_forward", counts.emitted},
          {"trees_by_depth", counts.reached},
          {"accepted_by_depth", counts.matched},
          {"steps", counts.steps},
          {"rows", counts.rows},
          {"seconds_by_phase", std::move(phases)},
          {"calibration", CalibrationJson(counts)},
          {"brier", counts.Brier()}};
}

ordered_json ModesJson(const EvalReport& report, const CategoryFigures& category) {
  ordered_json modes = ordered_json::object();
  for (size_t i = 0; i < report.modes.size(); ++i) modes[report.modes[i]] = FiguresJson(category.modes[i]);
  return modes;
}

ordered_json AnswerJson(const EvalReport& report, const Answered& answered) {
  ordered_json modes = ordered_json::object();
  for (size_t i = 0; i < report.modes.size(); ++i) {
    const ModeAnswer& answer = answered.answers[i];
    ordered_json& mode = modes[report.modes[i]];
    mode = {{"tokens", answer.tokens()},
            {"finish_reason", answer.finish_reason},
            {"forwards", answer.stats.forwards},
            {"first_tokens", answer.first_tokens},
            {"draft_nodes", answer.stats.draft_nodes},
            {"prefill_seconds", answer.stats.prefill_seconds},
            {"decode_seconds", answer.stats.decode_seconds},
            {"tokens_per_second", answer.tokens_per_second()},
            {"identical", nullptr}};
    if (report.plain) mode["identical"] = answer.ids == answered.answers[*report.plain].ids;
  }
  const EvalQuestion& question = answered.question;
  return {{"prompt", question.id},
          {"category", question.category},
          {"line", question.line},
          {"prompt_ids", question.prompt_ids},
          {"token_ids", answered.answers[0].ids},
          {"modes", std::move(modes)}};
}

ordered_json DifferenceJson(const EvalReport& report, const Difference& difference) {
  const auto id = [](int32_t token) { return token < 0 ? ordered_json() : ordered_json(token); };
  const EvalQuestion& question = report.answered[difference.prompt].question;
  return {{"prompt", question.id},
          {"line", question.line},
          {"mode", report.modes[difference.mode]},
          {"token_index", difference.token},
          {"plain", id(difference.plain)},
          {"other", id(difference.other)}};
}

}  // namespace

ordered_json EvalJson(const EvalReport& report) {
  ordered_json object = {{"model", report.model},     {"suite", report.suite},     {"data", report.data},
                         {"options", report.options}, {"machine", report.machine}, {"modes", report.modes},
                         {"notes", EvalNotes(report)}};
  object["prompts"] = {{"planned", report.planned}, {"answered", report.answered.size()}};
  ordered_json& too_long = object["prompts"]["too_long"] = ordered_json::object();
  for (const auto& [category, prompts] : report.too_long) too_long[category] = prompts;
  object["complete"] = report.complete();
  object["lossless"] = report.plain ? ordered_json(report.differences.empty()) : ordered_json();
  object["overall"] = ModesJson(report, report.figures.overall);
  ordered_json& categories = object["categories"] = ordered_json::array();
  for (const CategoryFigures& category : report.figures.categories) {
    categories.push_back({{"category", category.category}, {"modes", ModesJson(report, category)}});
  }
  ordered_json& differences = object["differences"] = ordered_json::array();
  for (const Difference& difference : report.differences) {
    differences.push_back(DifferenceJson(report, difference));
  }
  ordered_json& answers = object["answers"] = ordered_json::array();
  for (const Answered& answered : report.answered) answers.push_back(AnswerJson(report, answered));
  return object;
}

}  // namespace clamor::cli
