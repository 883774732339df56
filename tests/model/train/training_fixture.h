// What the tests of training share: the models they train, random texts to train them on, and what the
// worker's Transformer says of those texts.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "kernels/top_k.h"
#include "model/train/sample.h"
#include "model/train/sample_noise.h"
#include "model/train/trainable_model.h"
#include "model/train/trainer.h"
#include "model/train/training_pass.h"
#include "model/transformer.h"
#include "tests/model/checkpoint/model_files.h"

namespace clamor {

inline ModelConfig ConfigAt(const std::string& model_dir) { return LoadModelDescription(model_dir)->config; }

// A model directory's parameters, ready to be trained.
inline std::unique_ptr<TrainableModel> LoadTrainable(const std::string& model_dir,
                                                     kernels::ThreadPool& pool) {
  auto model = std::make_unique<TrainableModel>(ConfigAt(model_dir));
  const absl::Status loaded =
      LoadParameters(model_dir, model->config(), model->table(), model->values(), [](uint64_t, uint64_t) {});
  EXPECT_TRUE(loaded.ok()) << loaded;
  model->Pack(pool);
  return model;
}

// What is trained of a folder of tests/testdata: all of it, or adapters beside weights held as `format`.
struct Subject {
  std::string name;
  int64_t rank = 0;
  WeightFormat format = WeightFormat::kF32;

  std::string dir() const { return test::Testdata("tiny-" + name); }
  LowRankOptions adapters() const { return {.rank = rank, .alpha = 6}; }
  friend std::ostream& operator<<(std::ostream& out, const Subject& s) {
    return out << s.name << (s.rank > 0 ? "_adapters" : "")
               << (s.format != WeightFormat::kF32 ? "_stored" : "");
  }
};

inline std::vector<Subject> AdapterSubjects() {
  return {
      {"llama", 4}, {"qwen2", 4}, {"qwen3", 4}, {"mistral", 4}, {"qwen2", 4, WeightFormat::kStored}};  // bf16
}

inline std::vector<Subject> Subjects() {
  std::vector<Subject> subjects = {{"llama"}, {"qwen2"}, {"qwen3"}, {"mistral"}};
  for (Subject& subject : AdapterSubjects()) subjects.push_back(std::move(subject));
  return subjects;
}

struct TestedModel {
  TestedModel(const Subject& subject, kernels::ThreadPool& pool) {
    if (subject.rank == 0) {
      model = LoadTrainable(subject.dir(), pool);
      return;
    }
    const ModelConfig config = ConfigAt(subject.dir());
    auto loaded = Weights::Load(subject.dir(), config, subject.format, pool, [](uint64_t, uint64_t) {});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    base = std::make_unique<Weights>(*std::move(loaded));
    model = std::make_unique<TrainableModel>(config, base.get(), subject.adapters(), /*seed=*/7, pool);
    model->Pack(pool);
  }

  std::unique_ptr<Weights> base;  // null: there are no adapters
  std::unique_ptr<TrainableModel> model;
};

using Random = std::mt19937;

inline int32_t Below(int32_t n, Random& random) {
  return std::uniform_int_distribution<int32_t>(0, n - 1)(random);
}

inline std::vector<int32_t> RandomIds(int32_t count, int32_t vocab, Random& random) {
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = Below(vocab, random);
  return ids;
}

// Texts of the given lengths; inputs and labels have nothing to do with each other, and a quarter of the rows
// has no target.
inline TrainingBatch RandomBatch(const std::vector<int32_t>& lengths, int32_t vocab, Random& random) {
  TrainingBatch batch;
  for (const int32_t length : lengths) {
    batch.Add(RandomIds(length, vocab, random), RandomIds(length, vocab, random),
              [&](int32_t) { return Below(4, random) > 0; });
  }
  return batch;
}

// Texts [begin, end) of a batch.
inline TrainingBatch Texts(const TrainingBatch& batch, size_t begin, size_t end) {
  TrainingBatch part;
  const int64_t first = batch.starts[begin], last = batch.starts[end];
  part.inputs.assign(batch.inputs.begin() + first, batch.inputs.begin() + last);
  part.targets.assign(batch.targets.begin() + first, batch.targets.begin() + last);
  for (size_t t = begin + 1; t <= end; ++t) part.starts.push_back(batch.starts[t] - first);
  return part;
}

// Texts of the given lengths, each a question and an answer, the longer ones two of each.
inline std::vector<Sample> RandomSamples(const std::vector<int32_t>& sizes, int32_t vocab, uint32_t seed) {
  Random random(seed);
  std::vector<Sample> samples;
  for (const int32_t size : sizes) {
    Sample& sample = samples.emplace_back(
        Sample{.ids = RandomIds(size, vocab, random), .responses = {{size / 2, size}}, .source = ""});
    if (size >= 30) sample.responses = {{3, size / 2}, {size / 2 + 4, size}};
  }
  return samples;
}

inline const std::vector<int32_t> kSizes = {14, 40, 9, 33, 21, 2, 28};

// Every third token is special, and the head is wider than the vocabulary.
inline NoiseVocabulary ThirdsAreSpecial(const ModelConfig& config) {
  NoiseVocabulary vocabulary{.size = config.vocab_size - 40, .specials = {}};
  for (int32_t id = 0; id < vocabulary.size; id += 3) vocabulary.specials.push_back(id);
  return vocabulary;
}

// Two epochs of a few steps for samples of kSizes.
inline TrainerOptions OptionsWith(NoiseKind kind) {
  return {.noise = {.kind = kind, .length = 3, .segments = 2},
          .epochs = 2,
          .batch_tokens = 70,
          .micro_tokens = 40,
          .learning_rate = 1e-2,
          .warmup_steps = 2,
          .seed = 5};
}

// The model of a directory as the worker runs it, for whole texts without a cache's history.
class Decoder {
 public:
  Decoder(const std::string& dir, WeightFormat format) {
    auto model = Transformer::Load(dir, format, /*max_positions=*/0, pool_, [](uint64_t, uint64_t) {});
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    cache_ = std::make_unique<KvCache>(model_->config(), /*pages=*/16);
  }

  struct Row {
    int32_t best;               // token
    float log_sum_exp;          // of the logits
    std::vector<float> logits;  // [vocab]

    double Loss(int32_t target) const { return log_sum_exp - logits[target]; }
  };
  std::vector<Row> Read(std::span<const int32_t> ids) {
    const auto size = static_cast<int32_t>(ids.size());
    KvLease lease;
    EXPECT_TRUE(cache_->Grow(lease, size));
    Batch batch;
    for (int32_t i = 0; i < size; ++i) {
      batch.tokens.push_back(ids[i]);
      batch.positions.push_back(i);
      batch.slots.push_back(lease.Slot(i));
      batch.attention.push_back({.pages = lease.pages().data(), .prefix = i + 1});
      batch.logit_rows.push_back(i);
    }
    model_->Forward(batch, *cache_, scratch_, pool_);
    const int64_t vocab = model_->config().vocab_size;
    std::vector<Row> rows;
    for (int32_t i = 0; i < size; ++i) {
      const float* logits = scratch_.logits.data() + i * vocab;
      Row& row = rows.emplace_back(Row{.best = 0, .log_sum_exp = 0, .logits = {logits, logits + vocab}});
      float best_logit;
      kernels::TopK(logits, vocab, 1, vocab, 1, &row.best, &best_logit, &row.log_sum_exp, pool_);
    }
    return rows;
  }
  // Of all rows of a batch.
  std::vector<Row> Read(const TrainingBatch& batch) {
    std::vector<Row> rows;
    for (size_t t = 0; t + 1 < batch.starts.size(); ++t) {
      for (Row& row :
           Read(std::span(batch.inputs).subspan(batch.starts[t], batch.starts[t + 1] - batch.starts[t]))) {
        rows.push_back(std::move(row));
      }
    }
    return rows;
  }

 private:
  kernels::ThreadPool pool_{1};
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<KvCache> cache_;
  Activations scratch_;
};

}  // namespace clamor
