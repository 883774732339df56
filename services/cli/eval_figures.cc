#include "services/cli/eval_figures.h"

#include <algorithm>

namespace clamor::cli {
namespace {

double Ratio(double a, double b) { return b > 0 ? a / b : NAN; }

// Adds `count` at `index` of a histogram that grows as needed.
void AddAt(std::vector<int64_t>& histogram, size_t index, int64_t count = 1) {
  if (histogram.size() <= index) histogram.resize(index + 1);
  histogram[index] += count;
}

void AddAll(std::vector<int64_t>& histogram, const std::vector<int64_t>& other) {
  for (size_t i = 0; i < other.size(); ++i) AddAt(histogram, i, other[i]);
}

double Median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void AddAnswer(const Answered& answered, const ModeAnswer& answer, ModeFigures& figures) {
  ++figures.prompts;
  figures.prompt_tokens += static_cast<int64_t>(answered.question.prompt_ids.size());
  figures.tokens += answer.tokens();
  figures.forwards += answer.stats.forwards;
  figures.draft_nodes += answer.stats.draft_nodes;
  figures.decode_tokens += answer.tokens() - answer.first_tokens;
  figures.prefill_seconds += answer.stats.prefill_seconds;
  figures.decode_seconds += answer.stats.decode_seconds;
  figures.counts.Add(answer.counts);
}

// The figures of all answers in `some`.
CategoryFigures Summed(const std::string& name, const std::vector<const Answered*>& some, size_t modes,
                       std::optional<size_t> plain) {
  CategoryFigures summed{name, std::vector<ModeFigures>(modes)};
  for (size_t mode = 0; mode < modes; ++mode) {
    ModeFigures& figures = summed.modes[mode];
    std::vector<double> ratios;
    for (const Answered* answered : some) {
      const ModeAnswer& answer = answered->answers[mode];
      AddAnswer(*answered, answer, figures);
      if (!plain) continue;
      const ModeAnswer& reference = answered->answers[*plain];
      ++figures.compared;
      figures.identical += answer.ids == reference.ids ? 1 : 0;
      const double ratio = Ratio(answer.tokens_per_second(), reference.tokens_per_second());
      if (std::isfinite(ratio)) ratios.push_back(ratio);
    }
    figures.ratio_median = Median(std::move(ratios));
  }
  for (ModeFigures& figures : summed.modes) {
    if (plain)
      figures.ratio_total = Ratio(figures.tokens_per_second(), summed.modes[*plain].tokens_per_second());
  }
  return summed;
}

}  // namespace

void StepCounts::AddStep(const StepReport& report) {
  for (size_t i = 0; i < kSources; ++i) {
    drafted[i] += report.drafted[i];
    accepted[i] += report.accepted[i];
  }
  if (report.prompt_tokens > 0) return;
  ++steps;
  rows += report.rows;
  for (size_t i = 0; i < phase_seconds.size(); ++i) phase_seconds[i] += report.seconds[i];
}

void StepCounts::AddTree(const DraftTree& tree, const Accepted& accepted) {
  ++forwards;
  if (tree.drafted() == 0) ++undrafted;
  int32_t depth = 0;
  size_t on_path = 0;  // nodes of the path that were passed: it descends, so its indices ascend
  for (size_t i = 1; i < tree.nodes.size(); ++i) {
    const DraftNode& node = tree.nodes[i];
    depth = std::max(depth, node.depth);
    const bool hit = on_path < accepted.path.size() && accepted.path[on_path] == static_cast<int32_t>(i);
    if (hit) ++on_path;
    if (node.survival <= 0) continue;
    const auto above = std::upper_bound(kSurvivalBounds.begin(), kSurvivalBounds.end(), node.survival);
    Bucket& bucket = calibration[above - kSurvivalBounds.begin() - 1];
    const double error = node.survival - (hit ? 1.0 : 0.0);
    ++bucket.nodes;
    bucket.accepted += hit ? 1 : 0;
    bucket.predicted += node.survival;
    bucket.squared_error += error * error;
  }
  for (int32_t d = 1; d <= depth; ++d) AddAt(reached, d);
  for (size_t d = 1; d <= accepted.path.size(); ++d) AddAt(matched, d);
}

void StepCounts::AddEmitted(int32_t tokens) { AddAt(emitted, static_cast<size_t>(std::max(tokens, 0))); }

void StepCounts::Add(const StepCounts& other) {
  steps += other.steps;
  rows += other.rows;
  for (size_t i = 0; i < phase_seconds.size(); ++i) phase_seconds[i] += other.phase_seconds[i];
  forwards += other.forwards;
  undrafted += other.undrafted;
  for (size_t i = 0; i < kSources; ++i) {
    drafted[i] += other.drafted[i];
    accepted[i] += other.accepted[i];
  }
  AddAll(emitted, other.emitted);
  AddAll(reached, other.reached);
  AddAll(matched, other.matched);
  for (size_t i = 0; i < calibration.size(); ++i) {
    calibration[i].nodes += other.calibration[i].nodes;
    calibration[i].accepted += other.calibration[i].accepted;
    calibration[i].predicted += other.calibration[i].predicted;
    calibration[i].squared_error += other.calibration[i].squared_error;
  }
}

double StepCounts::Brier() const {
  double error = 0, nodes = 0;
  for (const Bucket& bucket : calibration) {
    error += bucket.squared_error;
    nodes += static_cast<double>(bucket.nodes);
  }
  return Ratio(error, nodes);
}

double ModeAnswer::tokens_per_second() const {
  if (tokens() == first_tokens) return NAN;
  return Ratio(static_cast<double>(tokens() - first_tokens), stats.decode_seconds);
}

double ModeFigures::tokens_per_forward() const {
  return Ratio(static_cast<double>(tokens), static_cast<double>(forwards));
}
double ModeFigures::tokens_per_second() const {
  return decode_tokens > 0 ? Ratio(static_cast<double>(decode_tokens), decode_seconds) : NAN;
}
double ModeFigures::nodes_per_forward() const {
  return Ratio(static_cast<double>(draft_nodes), static_cast<double>(forwards));
}

EvalFigures FiguresOf(const std::vector<Answered>& answered, size_t modes, std::optional<size_t> plain) {
  std::vector<std::string> names;
  std::vector<std::vector<const Answered*>> groups;
  std::vector<const Answered*> all;
  for (const Answered& entry : answered) {
    const auto known = std::find(names.begin(), names.end(), entry.question.category);
    const size_t group = known - names.begin();
    if (known == names.end()) {
      names.push_back(entry.question.category);
      groups.emplace_back();
    }
    groups[group].push_back(&entry);
    all.push_back(&entry);
  }
  EvalFigures figures;
  for (size_t i = 0; i < names.size(); ++i) {
    figures.categories.push_back(Summed(names[i], groups[i], modes, plain));
  }
  figures.overall = Summed("overall", all, modes, plain);
  return figures;
}

std::vector<Difference> DifferencesOf(const std::vector<Answered>& answered, std::optional<size_t> plain) {
  std::vector<Difference> differences;
  if (!plain) return differences;
  for (size_t prompt = 0; prompt < answered.size(); ++prompt) {
    const std::vector<int32_t>& expected = answered[prompt].answers[*plain].ids;
    for (size_t mode = 0; mode < answered[prompt].answers.size(); ++mode) {
      const std::vector<int32_t>& ids = answered[prompt].answers[mode].ids;
      if (ids == expected) continue;
      const auto [at, other] = std::mismatch(expected.begin(), expected.end(), ids.begin(), ids.end());
      differences.push_back({.prompt = prompt,
                             .mode = mode,
                             .token = static_cast<size_t>(at - expected.begin()),
                             .plain = at == expected.end() ? -1 : *at,
                             .other = other == ids.end() ? -1 : *other});
    }
  }
  return differences;
}

}  // namespace clamor::cli
