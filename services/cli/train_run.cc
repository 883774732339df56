#include "services/cli/train_run.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/safetensors.h"
#include "model/sha256.h"
#include "model/train/checkpoint.h"
#include "model/train/cuda/training_library.h"
#include "model/train/model_export.h"
#include "model/train/report.h"
#include "model/train/training_log.h"
#include "services/cli/command.h"
#include "services/cli/train_evaluation.h"
#include "services/cli/train_folder.h"
#include "services/cli/train_memory.h"
#include "services/cli/train_progress.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {
namespace {

using kernels::DType;
using nlohmann::json;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class TrainingRun {
 public:
  explicit TrainingRun(TrainFlags flags) : flags_(std::move(flags)), folder_(flags_.output) {}

  absl::Status Run() {
    CLAMOR_RETURN_IF_ERROR(Resolve(flags_));
    CLAMOR_RETURN_IF_ERROR(folder_.Open(flags_.resume));
    CLAMOR_RETURN_IF_ERROR(ReadSource());
    CLAMOR_RETURN_IF_ERROR(ReadData());
    CLAMOR_RETURN_IF_ERROR(FitMemory());
    CLAMOR_ASSIGN_OR_RETURN(const json identity, Identity());
    CLAMOR_RETURN_IF_ERROR(folder_.Identify(identity));
    if (flags_.resume && IsFinished()) {
      std::fprintf(stderr, "nothing is left to do: the run in %s is done\n", folder_.path().c_str());
      return absl::OkStatus();
    }
    CLAMOR_RETURN_IF_ERROR(MakeModel());
    CLAMOR_RETURN_IF_ERROR(Begin());
    return Loop();
  }

 private:
  const ModelConfig& config() const { return description_.config; }

  absl::Status ReadSource() {
    source_ = flags_.model;
    if (source_.empty()) {
      CLAMOR_RETURN_IF_ERROR(folder_.AssembleSource(flags_.config, flags_.tokenizer));
      source_ = folder_.source();
    }
    CLAMOR_ASSIGN_OR_RETURN(description_, LoadModelDescription(source_));
    CLAMOR_ASSIGN_OR_RETURN(texts_, LoadTokenizer(source_));
    if (!flags_.model.empty()) {
      CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(source_));
      CLAMOR_ASSIGN_OR_RETURN(
          const Tensor embedding,
          files->Get("model.embed_tokens.weight", {config().vocab_size, config().hidden_size}));
      stored_ = embedding.dtype;
    }
    const bool bf16 = flags_.dtype == "bf16" || (flags_.dtype == "stored" && stored_ == DType::kBF16);
    written_ = bf16 ? DType::kBF16 : DType::kF32;
    if (flags_.max_length > config().max_positions) {
      return UsageError(absl::StrCat("--max-length is ", flags_.max_length, ", the model's context only ",
                                     config().max_positions));
    }
    if (flags_.max_length == 0) {
      flags_.max_length =
          static_cast<int32_t>(std::min<int64_t>(config().max_positions, flags_.trainer.batch_tokens));
    }
    return absl::OkStatus();
  }

  absl::Status ReadData() {
    const DatasetTexts texts = {.tokenizer = texts_.tokenizer.get(),
                                .chat_template = texts_.chat_template.get(),
                                .eos_ids = description_.generation.eos_ids,
                                .vocab_size = config().vocab_size};
    const DatasetOptions options = {
        .max_length = flags_.max_length,
        .on_bad_sample = flags_.on_bad_sample == "skip" ? OnBadSample::kSkip : OnBadSample::kRefuse,
        .response_tokens_for_noise = ResponseTokensForNoise(flags_.trainer.noise)};
    CLAMOR_ASSIGN_OR_RETURN(data_, LoadDataset(flags_.data, texts, options, [](uint64_t, uint64_t) {}));
    Report("--data", data_);
    if (flags_.holdout.empty()) {
      HoldOutTail();
      return absl::OkStatus();
    }
    DatasetOptions held_out = options;
    held_out.response_tokens_for_noise = 0;
    CLAMOR_ASSIGN_OR_RETURN(holdout_,
                            LoadDataset({flags_.holdout}, texts, held_out, [](uint64_t, uint64_t) {}));
    Report("--holdout", holdout_);
    return absl::OkStatus();
  }

  void HoldOutTail() {
    const size_t kept = std::min<size_t>(100, data_.samples.size() / 50);
    if (kept == 0) return;
    const auto tail = data_.samples.end() - static_cast<int64_t>(kept);
    for (auto sample = tail; sample != data_.samples.end(); ++sample) {
      data_.tokens -= static_cast<int64_t>(sample->ids.size());
    }
    holdout_.samples.assign(std::make_move_iterator(tail), std::make_move_iterator(data_.samples.end()));
    data_.samples.erase(tail, data_.samples.end());
    std::fprintf(stderr, "the last %zu samples of --data are held out\n", kept);
  }

  static void Report(const char* flag, const Dataset& data) {
    std::string line = absl::StrFormat("%s: %d samples, %d tokens, %d of them responses", flag,
                                       data.samples.size(), data.tokens, data.response_tokens);
    for (const auto& [kind, count] : data.bad) absl::StrAppend(&line, "; skipped ", count, " (", kind, ")");
    if (data.without_noise > 0) absl::StrAppend(&line, "; too short for noise: ", data.without_noise);
    std::fprintf(stderr, "%s\n", line.c_str());
    for (const std::string& message : data.messages) std::fprintf(stderr, "  %s\n", OneLine(message).c_str());
  }

  // What decides the bits of the run.
  absl::StatusOr<json> Identity() const {
    Sha256 data;
    for (const Sample& sample : data_.samples) {
      data.Add({reinterpret_cast<const char*>(sample.ids.data()), sample.ids.size() * sizeof(int32_t)});
      data.Add(
          {reinterpret_cast<const char*>(sample.responses.data()), sample.responses.size() * sizeof(Span)});
    }
    CLAMOR_ASSIGN_OR_RETURN(const std::string revision, ModelRevision(source_, ""));
    json identity = Fingerprint(flags_);
    identity["data"] = data.Hex();
    identity["model"] = revision;
    return identity;
  }

  bool IsFinished() const {
    const absl::StatusOr<TrainingLog> log = ReadTrainingLog(folder_.log());
    return log.ok() && log->end.has_value() && log->end->reason == "done";
  }

  absl::Status FitMemory() {
    for (const Dataset* data : {&data_, &holdout_}) {
      for (const Sample& sample : data->samples)
        longest_ = std::max(longest_, static_cast<int64_t>(sample.ids.size()));
    }
    CLAMOR_ASSIGN_OR_RETURN(
        expected_memory_bytes_,
        cli::FitMemory(flags_, config(), {.stored = stored_, .written = written_, .longest = longest_}));
    return absl::OkStatus();
  }

  // Of the tokens that both the tokenizer and the model have; either may have more.
  absl::StatusOr<NoiseVocabulary> SharedVocabulary() const {
    NoiseVocabulary vocabulary = NoiseVocabulary::Of(*texts_.tokenizer);
    vocabulary.size = std::min(vocabulary.size, config().vocab_size);
    std::erase_if(vocabulary.specials, [&](int32_t id) { return id >= vocabulary.size; });
    if (static_cast<size_t>(vocabulary.size) > vocabulary.specials.size()) return vocabulary;
    return absl::FailedPreconditionError(
        absl::StrCat(source_, ": all ", vocabulary.size, " tokens are special, none is left for --noise"));
  }

  absl::Status MakeModel() {
    threads_ = flags_.threads > 0 ? flags_.threads : PhysicalCores();
    pool_.emplace(threads_);
    const auto quiet = [](uint64_t, uint64_t) {};
    if (flags_.adapters.rank > 0) {
      CLAMOR_ASSIGN_OR_RETURN(base_, Weights::Load(source_, config(), WeightFormat::kStored, *pool_, quiet));
      model_ =
          std::make_unique<TrainableModel>(config(), &base_, flags_.adapters, flags_.trainer.seed, *pool_);
    } else {
      model_ = std::make_unique<TrainableModel>(config());
      if (flags_.model.empty()) {
        InitializeParameters(model_->table(), flags_.trainer.seed, model_->values());
      } else {
        CLAMOR_RETURN_IF_ERROR(LoadParameters(source_, config(), model_->table(), model_->values(), quiet));
      }
    }
    model_->Pack(*pool_);
    CLAMOR_ASSIGN_OR_RETURN(NoiseVocabulary vocabulary, SharedVocabulary());
    std::unique_ptr<TrainingBackend> backend;  // null: the CPU
    if (flags_.device == "cuda") {
      CLAMOR_ASSIGN_OR_RETURN(backend, OnCuda());
    }
    trainer_.emplace(model_.get(), data_.samples, std::move(vocabulary), flags_.trainer, &*pool_,
                     std::move(backend));
    const int64_t steps = trainer_->steps();
    if (flags_.checkpoint_every == 0) flags_.checkpoint_every = std::max<int64_t>(50, steps / 20);
    if (flags_.evaluate_every == 0) flags_.evaluate_every = std::max<int64_t>(50, steps / 10);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<TrainingBackend>> OnCuda() {
    parameters_.emplace(config());
    auto backend = NewCudaTraining(config(), *parameters_,
                                   {.rows = std::max(flags_.trainer.micro_tokens, longest_),
                                    .max_length = static_cast<int32_t>(longest_),
                                    .recompute = flags_.trainer.recompute});
    if (backend.ok()) return backend;
    return absl::Status(backend.status().code(), absl::StrCat("--device cuda: ", backend.status().message()));
  }

  absl::Status Begin() {
    if (flags_.resume) CLAMOR_RETURN_IF_ERROR(Resume());
    begun_ = trainer_->step();
    auto log = begun_ > 0 ? TrainingLogWriter::Resume(folder_.log(), begun_, {})
                          : TrainingLogWriter::Create(folder_.log(), {});
    if (!log.ok()) return log.status();
    log_.emplace(*std::move(log));
    seconds_before_ = log_->seconds_before();
    if (begun_ > 0) tokens_ = TokensBefore();
    Warn(log_->Write(LoggedStart{
        .step = begun_,
        .time = absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::LocalTimeZone()),
        .options = DescribeFlags(flags_),
        .model = {{"name", ModelName(flags_.model.empty() ? folder_.path() : flags_.model)},
                  {"family", std::string(FamilyName(config().family))},
                  {"parameters", ModelParameters(config()).table.total()},
                  {"trained_parameters", model_->table().total()},
                  {"from_scratch", flags_.model.empty()}},
        .data = {{"files", flags_.data},
                 {"samples", data_.samples.size()},
                 {"tokens", data_.tokens},
                 {"heldout_samples", holdout_.samples.size()},
                 {"skipped", data_.bad_lines()}},
        .machine = {{"threads", threads_},
                    {"expected_memory_bytes", expected_memory_bytes_},
                    {"target", flags_.device == "cuda"
                                   ? flags_.device
                                   : std::string(kernels::CpuTargetName(kernels::ActiveCpuTarget()))}}}));
    return absl::OkStatus();
  }

  absl::Status Resume() {
    auto loaded =
        LoadNewestCheckpoint(folder_.checkpoints(), model_->table(),
                             {model_->values(), trainer_->first_moments(), trainer_->second_moments()});
    if (absl::IsNotFound(loaded.status())) {
      std::fprintf(stderr, "no checkpoint yet: starting from the beginning\n");
      return absl::OkStatus();
    }
    if (!loaded.ok()) return loaded.status();
    for (const std::string& message : loaded->skipped) std::fprintf(stderr, "%s\n", OneLine(message).c_str());
    trainer_->Resume(loaded->step);
    std::fprintf(stderr, "resuming after step %d of %d\n", static_cast<int>(loaded->step),
                 static_cast<int>(trainer_->steps()));
    return absl::OkStatus();
  }

  // Learned from before this process, as the log has it.
  int64_t TokensBefore() const {
    const absl::StatusOr<TrainingLog> log = ReadTrainingLog(folder_.log());
    return log.ok() && !log->steps.empty() ? log->steps.back().tokens : 0;
  }

  absl::Status Loop() {
    TrainProgress progress(trainer_->steps(), begun_);
    progress_ = &progress;
    Interrupted() = false;
    if (begun_ == 0 && !flags_.model.empty()) Warn(Evaluate());
    while (!trainer_->done() && !Interrupted()) {
      const double start = Now();
      const TrainingStep step = trainer_->Step();
      seconds_ += Now() - start;
      tokens_ += step.tokens;
      LogStep(step, Now() - start);
      progress.Show(step, seconds_);
      if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) return Diverged(step);
      if (step.step % flags_.evaluate_every == 0 && !trainer_->done()) Warn(Evaluate());
      if (step.step % flags_.checkpoint_every == 0 && !trainer_->done()) Warn(Save());
    }
    if (!trainer_->done()) return StopEarly();
    Warn(Save());  // first: if the model cannot be written, --resume can still do it
    const absl::Status evaluated = Evaluate();
    progress.Finish();
    CLAMOR_RETURN_IF_ERROR(evaluated);
    End("done");
    std::fprintf(stderr, "wrote %s%s%s\n", folder_.path().c_str(), summary_.empty() ? "" : ": ",
                 summary_.c_str());
    return absl::OkStatus();
  }

  absl::Status Diverged(const TrainingStep& step) {
    progress_->Finish();
    WriteReport();
    return absl::AbortedError(absl::StrCat("step ", step.step, ": the loss is ", step.loss,
                                           ", the gradient norm ", step.gradient_norm,
                                           "; begin anew with a smaller --lr"));
  }

  absl::Status StopEarly() {
    const absl::Status saved = Save();
    progress_->Finish();
    CLAMOR_RETURN_IF_ERROR(saved);
    End("interrupted");
    return absl::CancelledError(absl::StrCat("interrupted after step ", trainer_->step(), " of ",
                                             trainer_->steps(), "; the same command with --resume goes on"));
  }

  void LogStep(const TrainingStep& step, double seconds) {
    Warn(log_->Write(LoggedStep{.step = step.step,
                                .epoch = static_cast<double>(tokens_) / static_cast<double>(data_.tokens),
                                .loss = step.loss,
                                .gradient_norm = step.gradient_norm,
                                .learning_rate = step.learning_rate,
                                .tokens = tokens_,
                                .tokens_per_second = static_cast<double>(step.tokens) / seconds,
                                .seconds = seconds_before_ + seconds_}));
  }

  // Writes the model so far, and measures what was written. If that fails, what could be measured is logged
  // none the less.
  absl::Status Evaluate() {
    LoggedEvaluation evaluation = {.step = trainer_->step()};
    trainer_->Fetch();
    if (!holdout_.samples.empty()) evaluation.heldout_loss = trainer_->HeldOutLoss(holdout_.samples);
    absl::Status status = ExportModel(folder_.path(), source_, *model_, flags_.adapters, written_, *pool_);
    if (status.ok()) status = Decode(evaluation);
    summary_ = Summary(evaluation);
    if (!summary_.empty()) progress_->Say(absl::StrCat("step ", evaluation.step, ": ", summary_));
    Warn(log_->Write(evaluation));
    WriteReport();
    return status;
  }

  // Answers the first held-out prompts with the model as written. Ctrl-C leaves `evaluation` as it was.
  absl::Status Decode(LoggedEvaluation& evaluation) {
    const DecodingTask task = {.model_dir = folder_.path(),
                               .prompts = PromptsOf(holdout_.samples, flags_.evaluate_prompts, config()),
                               .max_tokens = flags_.evaluate_tokens,
                               .nodes = flags_.evaluate_nodes,
                               .threads = threads_};
    if (task.prompts.empty()) return absl::OkStatus();
    auto decoded = DecodeHeldOut(task, Interrupted());
    if (absl::IsCancelled(decoded.status())) return absl::OkStatus();
    if (!decoded.ok()) return decoded.status();
    evaluation.speeds = std::move(decoded->speeds);
    evaluation.samples = std::move(decoded->samples);
    return absl::OkStatus();
  }

  absl::Status Save() {
    trainer_->Fetch();
    const std::span<const float> values = std::as_const(*model_).values();
    CLAMOR_RETURN_IF_ERROR(SaveCheckpoint(folder_.checkpoints(), model_->table(), trainer_->step(),
                                          json::object(),
                                          {values, trainer_->first_moments(), trainer_->second_moments()}));
    return log_->WriteCheckpoint(trainer_->step());
  }

  void End(const char* reason) {
    Warn(log_->Write(LoggedEnd{.step = trainer_->step(),
                               .reason = reason,
                               .tokens = tokens_,
                               .seconds = seconds_before_ + seconds_,
                               .peak_memory_bytes = PeakMemoryBytes()}));
    WriteReport();
  }

  void WriteReport() {
    const absl::StatusOr<TrainingLog> log = ReadTrainingLog(folder_.log());
    Warn(log.ok() ? WriteFileAtomically(folder_.report(), RenderReport(*log)) : log.status());
  }

  // A full disk must not cost what was learned: what cannot be written is said, and the run goes on.
  void Warn(const absl::Status& status) {
    if (status.ok()) return;
    const std::string line = absl::StrCat("clamor: ", OneLine(status.message()));
    if (progress_ != nullptr) {
      progress_->Say(line);
    } else {
      std::fprintf(stderr, "%s\n", line.c_str());
    }
  }

  TrainFlags flags_;
  RunFolder folder_;
  std::string source_;  // folder of config and tokenizer
  ModelDescription description_;
  LoadedModel texts_;  // tokenizer and template
  DType stored_ = DType::kF32, written_ = DType::kF32;
  Dataset data_, holdout_;
  int64_t longest_ = 0;  // sample, in tokens
  int64_t expected_memory_bytes_ = 0;
  int threads_ = 1;
  std::optional<kernels::ThreadPool> pool_;
  Weights base_;  // of adapters
  std::unique_ptr<TrainableModel> model_;
  std::optional<ModelParameters> parameters_;  // of a device
  std::optional<Trainer> trainer_;
  std::optional<TrainingLogWriter> log_;
  TrainProgress* progress_ = nullptr;
  std::string summary_;  // of the last evaluation
  int64_t begun_ = 0;    // steps done before this process
  int64_t tokens_ = 0;   // read since step 0
  double seconds_ = 0, seconds_before_ = 0;
};

}  // namespace

absl::Status Train(TrainFlags flags) { return TrainingRun(std::move(flags)).Run(); }

}  // namespace clamor::cli
