#include "services/cli/train_run.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/safetensors.h"
#include "model/sha256.h"
#include "model/train/checkpoint.h"
#include "model/train/model_export.h"
#include "model/train/report.h"
#include "model/train/training_log.h"
#include "services/cli/command.h"
#include "services/cli/train_evaluation.h"
#include "services/cli/train_memory.h"
#include "services/cli/train_progress.h"
#include "services/worker/loaded_model.h"

namespace clamor::cli {
namespace {

namespace fs = std::filesystem;
using kernels::DType;
using nlohmann::json;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class TrainingRun {
 public:
  explicit TrainingRun(TrainFlags flags) : flags_(std::move(flags)), output_(flags_.output) {}

  absl::Status Run() {
    CLAMOR_RETURN_IF_ERROR(Resolve(flags_));
    CLAMOR_RETURN_IF_ERROR(OpenOutput());
    CLAMOR_RETURN_IF_ERROR(ReadSource());
    CLAMOR_RETURN_IF_ERROR(ReadData());
    CLAMOR_RETURN_IF_ERROR(FitMemory(flags_, config(), stored_));
    CLAMOR_RETURN_IF_ERROR(MakeModel());
    CLAMOR_RETURN_IF_ERROR(Begin());
    return Loop();
  }

 private:
  const ModelConfig& config() const { return description_.config; }
  std::string checkpoints() const { return absl::StrCat(output_, "/checkpoints"); }
  std::string log_path() const { return absl::StrCat(output_, "/training.jsonl"); }

  // A new run must not write over anything.
  absl::Status OpenOutput() {
    std::error_code error;
    const bool used = fs::exists(output_, error) && !fs::is_empty(output_, error);
    if (used && !flags_.resume) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--output ", output_, " is not empty; ",
          fs::exists(checkpoints(), error) ? "--resume goes on with the run in it" : "choose a new folder"));
    }
    fs::create_directories(checkpoints(), error);
    if (error)
      return absl::ErrnoToStatus(error.value(), absl::StrCat("--output ", output_, ": cannot create"));
    return absl::OkStatus();
  }

  // Tokenizer and config; of a new model they are brought together in one folder.
  absl::Status ReadSource() {
    source_ = flags_.model;
    if (source_.empty()) CLAMOR_RETURN_IF_ERROR(AssembleSource());
    CLAMOR_ASSIGN_OR_RETURN(description_, LoadModelDescription(source_));
    CLAMOR_ASSIGN_OR_RETURN(texts_, LoadTokenizer(source_));
    if (!flags_.model.empty()) {
      CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(source_));
      CLAMOR_ASSIGN_OR_RETURN(
          const Tensor embedding,
          files->Get("model.embed_tokens.weight", {config().vocab_size, config().hidden_size}));
      if (embedding.dtype == DType::kBF16) stored_ = DType::kBF16;
    }
    written_ = flags_.dtype == "stored" ? stored_ : flags_.dtype == "bf16" ? DType::kBF16 : DType::kF32;
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

  absl::Status AssembleSource() {
    source_ = absl::StrCat(output_, "/checkpoints/source");
    std::error_code error;
    fs::create_directories(source_, error);
    const fs::path beside = fs::path(flags_.tokenizer).parent_path();
    const auto copy = [&](const fs::path& from, const char* name, bool required) -> absl::Status {
      std::error_code failed;
      if (!required && !fs::exists(from, failed)) return absl::OkStatus();
      fs::copy_file(from, fs::path(source_) / name, fs::copy_options::overwrite_existing, failed);
      return failed ? absl::ErrnoToStatus(failed.value(), absl::StrCat(from.string(), ": cannot copy"))
                    : absl::OkStatus();
    };
    CLAMOR_RETURN_IF_ERROR(copy(flags_.config, "config.json", true));
    CLAMOR_RETURN_IF_ERROR(copy(flags_.tokenizer, "tokenizer.json", true));
    for (const char* name : {"tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"}) {
      CLAMOR_RETURN_IF_ERROR(copy(beside / name, name, false));
    }
    return copy(fs::path(flags_.config).parent_path() / "generation_config.json", "generation_config.json",
                false);
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
    if (!flags_.holdout.empty()) {
      DatasetOptions held_out = options;
      held_out.response_tokens_for_noise = 0;
      CLAMOR_ASSIGN_OR_RETURN(holdout_,
                              LoadDataset({flags_.holdout}, texts, held_out, [](uint64_t, uint64_t) {}));
      Report("--holdout", holdout_);
      return absl::OkStatus();
    }
    const size_t kept = std::min<size_t>(100, data_.samples.size() / 50);
    if (kept == 0) return absl::OkStatus();
    holdout_.samples.assign(std::make_move_iterator(data_.samples.end() - static_cast<int64_t>(kept)),
                            std::make_move_iterator(data_.samples.end()));
    data_.samples.resize(data_.samples.size() - kept);
    std::fprintf(stderr, "the last %zu samples of --data are held out\n", kept);
    return absl::OkStatus();
  }

  static void Report(const char* flag, const Dataset& data) {
    std::string line = absl::StrFormat("%s: %d samples, %d tokens, %d of them responses", flag,
                                       data.samples.size(), data.tokens, data.response_tokens);
    for (const auto& [kind, count] : data.bad) absl::StrAppend(&line, "; skipped ", count, " (", kind, ")");
    if (data.without_noise > 0) absl::StrAppend(&line, "; too short for noise: ", data.without_noise);
    std::fprintf(stderr, "%s\n", line.c_str());
    for (const std::string& message : data.messages) std::fprintf(stderr, "  %s\n", OneLine(message).c_str());
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
    trainer_.emplace(model_.get(), data_.samples, NoiseVocabulary::Of(*texts_.tokenizer), flags_.trainer,
                     &*pool_);
    const int64_t steps = trainer_->steps();
    if (flags_.checkpoint_every == 0) flags_.checkpoint_every = std::max<int64_t>(50, steps / 20);
    if (flags_.evaluate_every == 0) flags_.evaluate_every = std::max<int64_t>(50, steps / 10);
    return absl::OkStatus();
  }

  // What a run must agree on with the checkpoint that it resumes from.
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

  absl::Status Begin() {
    CLAMOR_ASSIGN_OR_RETURN(identity_, Identity());
    if (flags_.resume) CLAMOR_RETURN_IF_ERROR(Resume());
    begun_ = trainer_->step();
    auto log = begun_ > 0 ? TrainingLogWriter::Resume(log_path(), begun_, {})
                          : TrainingLogWriter::Create(log_path(), {});
    if (!log.ok()) return log.status();
    log_.emplace(*std::move(log));
    seconds_before_ = log_->seconds_before();
    if (begun_ > 0) tokens_ = TokensBefore();
    Warn(log_->Write(LoggedStart{
        .step = begun_,
        .time = absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::LocalTimeZone()),
        .options = DescribeFlags(flags_),
        .model = {{"name", ModelName(flags_.model.empty() ? flags_.config : flags_.model)},
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
                    {"target", std::string(kernels::CpuTargetName(kernels::ActiveCpuTarget()))}}}));
    return absl::OkStatus();
  }

  absl::Status Resume() {
    auto loaded =
        LoadNewestCheckpoint(checkpoints(), model_->table(),
                             {model_->values(), trainer_->first_moments(), trainer_->second_moments()});
    if (absl::IsNotFound(loaded.status())) {
      std::fprintf(stderr, "no checkpoint yet: starting from the beginning\n");
      return absl::OkStatus();
    }
    if (!loaded.ok()) return loaded.status();
    for (const std::string& message : loaded->skipped) std::fprintf(stderr, "%s\n", OneLine(message).c_str());
    for (const auto& [name, value] : identity_.items()) {
      const json& before = loaded->state.contains(name) ? loaded->state[name] : json();
      if (before == value) continue;
      return absl::FailedPreconditionError(absl::StrCat("--resume: ", name, " is ", value.dump(),
                                                        ", the checkpoint of step ", loaded->step,
                                                        " was made with ", before.dump()));
    }
    trainer_->Resume(loaded->step);
    std::fprintf(stderr, "resuming after step %d of %d\n", static_cast<int>(loaded->step),
                 static_cast<int>(trainer_->steps()));
    return absl::OkStatus();
  }

  // Learned from before this process, as the log has it.
  int64_t TokensBefore() const {
    const absl::StatusOr<TrainingLog> log = ReadTrainingLog(log_path());
    return log.ok() && !log->steps.empty() ? log->steps.back().tokens : 0;
  }

  absl::Status Loop() {
    TrainProgress progress(trainer_->steps(), begun_);
    progress_ = &progress;
    Interrupted() = false;
    if (begun_ == 0 && !flags_.model.empty()) CLAMOR_RETURN_IF_ERROR(Evaluate());
    while (!trainer_->done() && !Interrupted()) {
      const double start = Now();
      const TrainingStep step = trainer_->Step();
      seconds_ += Now() - start;
      tokens_ += step.tokens;
      if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
        progress.Finish();
        return absl::AbortedError(absl::StrCat("the loss of step ", step.step, " is ", step.loss,
                                               "; try a smaller --lr, from the checkpoint before"));
      }
      LogStep(step, Now() - start);
      progress.Show(step, seconds_);
      if (step.step % flags_.evaluate_every == 0 && !trainer_->done()) CLAMOR_RETURN_IF_ERROR(Evaluate());
      if (step.step % flags_.checkpoint_every == 0 && !trainer_->done()) Warn(Save());
    }
    if (!trainer_->done()) return StopEarly();
    CLAMOR_RETURN_IF_ERROR(Evaluate());
    Warn(Save());
    progress.Finish();
    End("done");
    std::fprintf(stderr, "wrote %s (%s)\n", output_.c_str(), summary_.c_str());
    return absl::OkStatus();
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
                                .epoch = flags_.trainer.epochs * static_cast<double>(step.step) /
                                         static_cast<double>(trainer_->steps()),
                                .loss = step.loss,
                                .gradient_norm = step.gradient_norm,
                                .learning_rate = step.learning_rate,
                                .tokens = tokens_,
                                .tokens_per_second = static_cast<double>(step.tokens) / seconds,
                                .seconds = seconds_before_ + seconds_}));
  }

  // Writes the model so far, and measures what was written.
  absl::Status Evaluate() {
    const absl::Status written = ExportModel(output_, source_, *model_, flags_.adapters, written_, *pool_);
    if (!written.ok()) {
      // The run goes on: the model at hand is what counts, and the end will try again.
      if (trainer_->done()) return written;
      Warn(written);
      return absl::OkStatus();
    }
    LoggedEvaluation evaluation = {.step = trainer_->step()};
    summary_.clear();
    if (!holdout_.samples.empty()) {
      evaluation.heldout_loss = trainer_->HeldOutLoss(holdout_.samples);
      summary_ = absl::StrFormat("held-out loss %.4f", evaluation.heldout_loss);
    }
    DecodingTask task = {.model_dir = output_,
                         .max_tokens = flags_.evaluate_tokens,
                         .nodes = flags_.evaluate_nodes,
                         .threads = threads_};
    for (const Sample& sample : holdout_.samples) {
      if (static_cast<int32_t>(task.prompts.size()) == flags_.evaluate_prompts) break;
      const auto end = sample.ids.begin() + sample.responses.front().begin;
      if (end - sample.ids.begin() < config().max_positions)
        task.prompts.emplace_back(sample.ids.begin(), end);
    }
    if (!task.prompts.empty()) {
      auto decoded = DecodeHeldOut(task, Interrupted());
      if (!decoded.ok() && !absl::IsCancelled(decoded.status())) return decoded.status();
      if (decoded.ok()) {
        const std::string speeds =
            absl::StrJoin(decoded->speeds, ", ", [](std::string* out, const LoggedSpeed& s) {
              absl::StrAppendFormat(out, "%s: %.2f", s.draft, s.tokens_per_forward);
            });
        absl::StrAppend(&summary_, ", tokens per forward by nodes ", speeds);
        evaluation.speeds = std::move(decoded->speeds);
        evaluation.samples = std::move(decoded->samples);
      }
    }
    if (!summary_.empty()) progress_->Say(absl::StrCat("step ", trainer_->step(), ": ", summary_));
    Warn(log_->Write(evaluation));
    WriteReport();
    return absl::OkStatus();
  }

  absl::Status Save() {
    const std::span<const float> values = std::as_const(*model_).values();
    CLAMOR_RETURN_IF_ERROR(SaveCheckpoint(checkpoints(), model_->table(), trainer_->step(), identity_,
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
    const absl::StatusOr<TrainingLog> log = ReadTrainingLog(log_path());
    Warn(log.ok() ? WriteFileAtomically(absl::StrCat(output_, "/report.html"), RenderReport(*log))
                  : log.status());
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
  const std::string output_;
  std::string source_;  // folder of config and tokenizer
  ModelDescription description_;
  LoadedModel texts_;  // tokenizer and template
  DType stored_ = DType::kF32, written_ = DType::kF32;
  Dataset data_, holdout_;
  int threads_ = 1;
  std::optional<kernels::ThreadPool> pool_;
  Weights base_;  // of adapters
  std::unique_ptr<TrainableModel> model_;
  std::optional<Trainer> trainer_;
  json identity_;
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
