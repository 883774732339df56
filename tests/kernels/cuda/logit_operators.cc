// From logits to tokens.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "kernels/cuda/edit_logits.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/top_k.h"
#include "kernels/top_k.h"
#include "model/spec/logit_edits.h"
#include "model/spec/sampler.h"
#include "tests/kernels/cuda/conformance.h"
#include "tests/kernels/cuda/dull_draw.h"

namespace clamor::kernels::cuda {
namespace {

constexpr int32_t kWidestVocabulary = 151'936;

int32_t Vocabulary(Random& random, int rows) {
  return rows == 1 ? kWidestVocabulary : random.Between(1, 700);
}

Problem Ranking(Random& random, int rows) {
  const int32_t n = Vocabulary(random, rows), k = random.Between(1, kMaxTopK);
  const int64_t stride = n + random.Between(0, 5);
  std::vector<float> logits = random.Floats(rows * stride, -9, 9);
  for (size_t i = 0; i < logits.size(); i += 7) logits[i] = std::nearbyint(logits[i]);  // ties
  const auto top = [=](auto rank) {
    std::vector<int32_t> ids(rows * k);
    std::vector<float> values(rows * k), sums(rows);
    rank(ids.data(), values.data(), sums.data());
    return Results{{AsFloats(ids)}, {values}, {.values = sums, .device = 1e-6}};
  };
  return {.reference =
              [=] {
                return top([&](int32_t* ids, float* values, float* sums) {
                  for (int r = 0; r < rows; ++r)
                    reference::TopK(&logits[r * stride], n, k, ids + r * k, values + r * k, sums + r);
                });
              },
          .cpu =
              [=](ThreadPool& pool) {
                return top([&](int32_t* ids, float* values, float* sums) {
                  kernels::TopK(logits.data(), stride, rows, n, k, ids, values, sums, pool);
                });
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceArray<float> in(stream, First(logits, count * stride)), values(stream, count * k),
                    sums(stream, count);
                DeviceArray<int32_t> ids(stream, count * k);
                TopK({.logits = in.data(),
                      .stride = stride,
                      .rows = count,
                      .n = n,
                      .k = k,
                      .ids = ids.data(),
                      .values = values.data(),
                      .log_sum_exp = sums.data()},
                     stream);
                return Results{{AsFloats(ids.Read())}, {values.Read()}, {sums.Read()}};
              }};
}

Problem Drawing(Random& random, int rows) {
  const int32_t n = Vocabulary(random, rows);
  const std::vector<float> logits = random.Floats(rows * n, -3, 3);
  std::vector<Draw> draws(rows);
  for (Draw& draw : draws) {
    draw = {.seed = random.bits()() * uint64_t{0x100000001},
            .position = random.Between(0, 1 << 20),
            .temperature = 0.5f * static_cast<float>(random.Between(0, 4))};
  }
  const auto each = [=](auto draw) {
    std::vector<float> tokens;
    for (int r = 0; r < rows; ++r) tokens.push_back(static_cast<float>(draw(&logits[r * n], draws[r])));
    return Results{{tokens}};
  };
  return {
      .reference =
          [=] { return each([&](const float* row, const Draw& draw) { return DullDraw(row, n, draw); }); },
      .cpu =
          [=](ThreadPool&) {
            Sampler sampler;
            return each([&](const float* row, const Draw& draw) {
              return sampler.Draw({row, static_cast<size_t>(n)},
                                  {.temperature = draw.temperature, .seed = draw.seed}, draw.position);
            });
          },
      .device =
          [=](cudaStream_t stream, int count) {
            DeviceArray<float> in(stream, First(logits, count * n));
            DeviceArray<Draw> how(stream, First(draws, count));
            DeviceArray<int32_t> tokens(stream, count);
            Sample({.logits = in.data(),
                    .stride = n,
                    .rows = count,
                    .n = n,
                    .draws = how.data(),
                    .tokens = tokens.data()},
                   stream);
            return Results{{AsFloats(tokens.Read())}};
          }};
}

// ---- penalties

// A sequence as a user asked for it, and its tree of guesses.
struct Edited {
  SamplingOptions options;
  AnswerEnds ends;
  std::vector<int32_t> prompt, answer;   // the root of the tree is the answer's last token
  std::vector<int32_t> tokens, parents;  // of the tree's nodes, the root included

  // The guesses on the way to a node, itself included.
  std::vector<int32_t> Path(int node) const {
    std::vector<int32_t> path;
    for (; node > 0; node = parents[node]) path.insert(path.begin(), tokens[node]);
    return path;
  }
};

Edited RandomEdits(Random& random, int nodes, int32_t vocabulary) {
  Edited e;
  if (random.Between(0, 3) > 0) e.options.repetition_penalty = 1.3f;
  if (random.Between(0, 1) > 0) e.options.presence_penalty = 0.7f;
  if (random.Between(0, 1) > 0) e.options.frequency_penalty = -0.4f;
  for (int i = 0; i < 4; ++i) {
    e.options.logit_bias.push_back({8 * i + random.Between(0, 7), 0.25f * static_cast<float>(i) - 1.0f});
    e.options.banned_token_ids.push_back(random.Between(0, vocabulary - 1));
  }
  e.ends = {.token_ids = {3, 5}, .min_tokens = random.Between(0, 12)};
  e.prompt = random.Ints(random.Between(1, 30), 0, vocabulary - 1);
  e.answer = random.Ints(random.Between(1, 9), 0, vocabulary - 1);
  e.tokens = {e.answer.back()};
  e.parents = {-1};
  while (static_cast<int>(e.tokens.size()) < nodes) {
    e.parents.push_back(random.Between(std::max(0, static_cast<int>(e.tokens.size()) - 3),
                                       static_cast<int>(e.tokens.size()) - 1));
    e.tokens.push_back(random.Between(0, vocabulary - 1));
  }
  return e;
}

void DullEdit(const Edited& e, const std::vector<int32_t>& path, float* logits) {
  std::vector<int32_t> answer = e.answer;
  answer.insert(answer.end(), path.begin(), path.end());
  const SamplingOptions& o = e.options;
  std::set<int32_t> penalized(answer.begin(), answer.end());
  if (o.repetition_penalty != 1) penalized.insert(e.prompt.begin(), e.prompt.end());
  for (const int32_t token : penalized) {
    float& x = logits[token];
    if (o.repetition_penalty != 1) x = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
    const auto times = static_cast<float>(std::count(answer.begin(), answer.end(), token));
    if (times > 0) x -= o.presence_penalty + o.frequency_penalty * times;
  }
  for (const TokenBias& b : o.logit_bias) logits[b.token] += b.bias;
  for (const int32_t token : o.banned_token_ids) logits[token] = -reference::kInfinity;
  if (static_cast<int64_t>(answer.size()) < e.ends.min_tokens) {
    for (const int32_t token : e.ends.token_ids) logits[token] = -reference::kInfinity;
  }
}

// What goes to the device for the edits of some sequences.
struct DeviceEdits {
  std::vector<SequenceEdits> sequences;
  std::vector<TokenCount> counts = {{0, 0}};
  std::vector<LogitBias> biases = {{0, 0}};
  std::vector<int32_t> ends = {0}, tokens;
  std::vector<AttentionRow> rows;

  void Add(const Edited& e, size_t nodes) {
    const SamplingOptions& o = e.options;
    std::map<int32_t, int32_t> times;
    if (o.repetition_penalty != 1) {
      for (const int32_t token : e.prompt) times[token] = 0;
    }
    for (const int32_t token : e.answer) ++times[token];
    std::map<int32_t, float> bias;
    for (const TokenBias& b : o.logit_bias) bias[b.token] = b.bias;
    for (const int32_t token : o.banned_token_ids) bias[token] = -reference::kInfinity;
    sequences.push_back({.repetition = o.repetition_penalty,
                         .presence = o.presence_penalty,
                         .frequency = o.frequency_penalty,
                         .first_count = static_cast<int32_t>(counts.size()),
                         .counts = static_cast<int32_t>(times.size()),
                         .first_bias = static_cast<int32_t>(biases.size()),
                         .biases = static_cast<int32_t>(bias.size()),
                         .first_end = static_cast<int32_t>(ends.size()),
                         .ends = static_cast<int32_t>(e.ends.token_ids.size()),
                         .tokens_before_end = static_cast<int32_t>(e.ends.min_tokens -
                                                                   static_cast<int64_t>(e.answer.size()))});
    for (const auto& [token, count] : times) counts.push_back({token, count});
    for (const auto& [token, value] : bias) biases.push_back({token, value});
    ends.insert(ends.end(), e.ends.token_ids.begin(), e.ends.token_ids.end());
    const auto tree = static_cast<int32_t>(rows.size());
    for (size_t node = 0; node < nodes; ++node) {
      uint64_t ancestors = 0;
      for (int at = static_cast<int>(node); at >= 0; at = e.parents[at]) ancestors |= uint64_t{1} << at;
      rows.push_back({.ancestors = ancestors,
                      .tree = tree,
                      .prefix = 0,
                      .position = 0,
                      .sequence = static_cast<int32_t>(sequences.size()) - 1});
    }
    tokens.insert(tokens.end(), e.tokens.begin(), e.tokens.begin() + nodes);
  }

  std::vector<float> Run(cudaStream_t stream, const std::vector<float>& logits, int64_t stride) const {
    std::vector<int32_t> all(rows.size());
    for (size_t r = 0; r < all.size(); ++r) all[r] = static_cast<int32_t>(r);
    DeviceArray<float> edited(stream, logits);
    DeviceArray<SequenceEdits> of(stream, sequences);
    DeviceArray<TokenCount> c(stream, counts);
    DeviceArray<LogitBias> b(stream, biases);
    DeviceArray<int32_t> e(stream, ends), t(stream, tokens), which(stream, all);
    DeviceArray<AttentionRow> step(stream, rows);
    EditLogits({.logits = edited.data(),
                .stride = stride,
                .rows = static_cast<int64_t>(rows.size()),
                .which = which.data(),
                .step_rows = step.data(),
                .tokens = t.data(),
                .sequences = of.data(),
                .counts = c.data(),
                .biases = b.data(),
                .ends = e.data()},
               stream);
    return edited.Read();
  }
};

// Trees of up to kMaxNodes rows, one behind the other.
Problem Penalties(Random& random, int rows) {
  const int32_t n = random.Between(32, 90);
  const std::vector<float> logits = random.Floats(rows * n, -4, 4);
  std::vector<Edited> sequences;
  for (int begin = 0; begin < rows; begin += kMaxNodes)
    sequences.push_back(RandomEdits(random, std::min(kMaxNodes, rows - begin), n));
  const auto each = [=](auto edit) {
    std::vector<float> out = logits;
    for (int r = 0; r < rows; ++r) {
      const Edited& e = sequences[r / kMaxNodes];
      edit(e, e.Path(r % kMaxNodes), &out[r * n]);
    }
    return Results{{out}};
  };
  return {.reference = [=] { return each(DullEdit); },
          .cpu =
              [=](ThreadPool&) {
                return each([&](const Edited& e, const std::vector<int32_t>& path, float* row) {
                  LogitEdits edits(e.options, e.ends, e.prompt, 64);
                  for (const int32_t token : e.answer) edits.Add(token);
                  std::vector<float> edited;
                  edits.Apply(path, {row, static_cast<size_t>(n)}, edited);
                  std::copy(edited.begin(), edited.end(), row);
                });
              },
          .device =
              [=](cudaStream_t stream, int count) {
                DeviceEdits edits;
                for (int begin = 0; begin < count; begin += kMaxNodes)
                  edits.Add(sequences[begin / kMaxNodes], std::min(kMaxNodes, count - begin));
                return Results{{edits.Run(stream, First(logits, count * n), n)}};
              },
          .chain =
              [=](cudaStream_t stream, int row) {
                Edited e = sequences[row / kMaxNodes];
                const std::vector<int32_t> path = e.Path(row % kMaxNodes);
                e.answer.insert(e.answer.end(), path.begin(), path.end());
                e.tokens = {e.answer.back()};
                e.parents = {-1};
                DeviceEdits edits;
                edits.Add(e, 1);
                const auto from = logits.begin() + row * n;
                return Results{{edits.Run(stream, std::vector<float>(from, from + n), n)}};
              }};
}

}  // namespace

std::vector<Operator> LogitOperators() {
  return {{"TopKAndLogSumExp", Ranking, kRowCounts},
          {"Penalties", Penalties, kRowCounts},
          {"GumbelSampling", Drawing, kRowCounts}};
}

}  // namespace clamor::kernels::cuda
