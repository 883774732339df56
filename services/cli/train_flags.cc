#include "services/cli/train_flags.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/cli/command.h"
#include "services/worker/request.h"

namespace clamor::cli {

void AddTrainFlags(CLI::App& verb, TrainFlags& f) {
  TrainerOptions& t = f.trainer;
  constexpr const char* kModel = "Model";
  auto* model =
      verb.add_option("--model", f.model, "Hugging Face model directory to go on from")->group(kModel);
  auto* config = verb.add_option("--config", f.config, "config.json of a new model, trained from nothing")
                     ->group(kModel);
  auto* tokenizer =
      verb.add_option(
              "--tokenizer", f.tokenizer,
              "Its tokenizer.json; tokenizer_config.json and chat_template.jinja beside it are used too")
          ->group(kModel);
  model->excludes(config)->excludes(tokenizer);
  config->needs(tokenizer);
  tokenizer->needs(config);
  auto* rank = verb.add_option("--lora-rank", f.adapters.rank,
                               "Train low-rank adapters instead of all weights; 0: all weights")
                   ->check(CLI::Range(0, 1024))
                   ->group(kModel);
  verb.add_option("--lora-alpha", f.adapters.alpha, "Adapters count alpha / rank times; 0: twice the rank")
      ->needs(rank)
      ->group(kModel);

  constexpr const char* kData = "Data";
  verb.add_option("--data", f.data, "JSONL: messages, prompt and response, or text")
      ->required()
      ->group(kData);
  verb.add_option("--holdout", f.holdout,
                  "JSONL that is only evaluated; default: the last 2 % of --data, at most 100")
      ->group(kData);
  verb.add_option("--max-length", f.max_length,
                  "Longest sample, in tokens; 0: what the model's context and a batch hold")
      ->check(CLI::Range(0, 1 << 20))
      ->group(kData);
  verb.add_option("--on-bad-sample", f.on_bad_sample,
                  "refuse: stop at the first; skip: leave it out and count it")
      ->check(CLI::IsMember({"refuse", "skip"}))
      ->capture_default_str()
      ->group(kData);

  constexpr const char* kNoise = "Noise";
  verb.add_option("--noise", f.noise,
                  "What inputs become: ahead (tokens before), uniform, jacobi (own guesses), none")
      ->check(CLI::IsMember({"ahead", "uniform", "jacobi", "none"}))
      ->capture_default_str()
      ->group(kNoise);
  verb.add_option("--noise-length", t.noise.length, "Inputs of a segment")
      ->capture_default_str()
      ->group(kNoise);
  verb.add_option("--noise-segments", t.noise.segments, "Segments of a sample")
      ->capture_default_str()
      ->group(kNoise);

  constexpr const char* kTraining = "Training";
  verb.add_option("--loss", f.loss, "response: of what assistants write; all: of every token")
      ->check(CLI::IsMember({"response", "all"}))
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--epochs", t.epochs, "Times the data is read")->capture_default_str()->group(kTraining);
  verb.add_option("--max-steps", t.max_steps, "Stop the schedule here; 0: all epochs")->group(kTraining);
  verb.add_option("--lr", t.learning_rate, "Highest learning rate")->capture_default_str()->group(kTraining);
  verb.add_option("--min-lr", t.min_learning_rate, "The last one, as a part of --lr")
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--warmup", t.warmup_steps, "Steps of rising learning rate; -1: a fiftieth, at least 20")
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--batch-tokens", t.batch_tokens, "Tokens of an optimizer step")
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option(
          "--batches", f.batches,
          "mixed: samples shuffled; by-length: those of like length together, as trainers that pad do")
      ->check(CLI::IsMember({"mixed", "by-length"}))
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--weight-decay", t.weight_decay, "AdamW's, of matrices")
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--clip-norm", t.clip_norm, "Largest gradient norm; 0: no limit")
      ->capture_default_str()
      ->group(kTraining);
  verb.add_option("--beta1", t.beta1, "AdamW's")->capture_default_str()->group(kTraining);
  verb.add_option("--beta2", t.beta2, "AdamW's")->capture_default_str()->group(kTraining);
  verb.add_option("--seed", t.seed, "Of the order, the noise and new weights")
      ->capture_default_str()
      ->group(kTraining);

  constexpr const char* kRun = "Run";
  verb.add_option("--output", f.output, "Folder for the model, checkpoints, training.jsonl and report.html")
      ->required()
      ->group(kRun);
  verb.add_option("--dtype", f.dtype, "Of the weights written: stored (as --model has them), fp32 or bf16")
      ->check(CLI::IsMember({"stored", "fp32", "bf16"}))
      ->capture_default_str()
      ->group(kRun);
  verb.add_flag("--resume", f.resume, "Go on from the newest checkpoint in --output")->group(kRun);
  verb.add_option("--checkpoint-every", f.checkpoint_every, "Steps; 0: 20 times a run, at least 50 apart")
      ->check(CLI::NonNegativeNumber)
      ->group(kRun);
  verb.add_option("--evaluate-every", f.evaluate_every, "Steps; 0: 10 times a run, at least 50 apart")
      ->check(CLI::NonNegativeNumber)
      ->group(kRun);
  verb.add_option("--evaluate-prompts", f.evaluate_prompts,
                  "Held-out prompts that are answered each time; 0: none")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str()
      ->group(kRun);
  verb.add_option("--evaluate-tokens", f.evaluate_tokens, "Longest answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(kRun);
  verb.add_option("--evaluate-nodes", f.evaluate_nodes,
                  "Draft nodes to report tokens per forward for, or 'published'")
      ->delimiter(',')
      ->capture_default_str()
      ->group(kRun);
  verb.add_option("--device", f.device, "Where the model is trained: cpu or cuda, the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str()
      ->group(kRun);
  verb.add_option("--threads", f.threads, "0: one per physical core")
      ->check(CLI::Range(0, 1024))
      ->group(kRun);
  verb.add_option("--micro-tokens", t.micro_tokens,
                  "Tokens held in memory at once; changes no result on the CPU")
      ->capture_default_str()
      ->group(kRun);
  verb.add_option("--recompute", f.recompute,
                  "Compute activations twice instead of keeping them: on, off, or auto (if memory is short); "
                  "changes no result")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str()
      ->group(kRun);
}

namespace {

// "weight_decay is -1, …" is about --weight-decay, "noise length is 0, …" about --noise-length.
absl::Status Named(const absl::Status& status) {
  const size_t end = status.message().find(" is ");
  return UsageError(
      absl::StrCat("--", absl::StrReplaceAll(status.message().substr(0, end), {{"_", "-"}, {" ", "-"}}),
                   status.message().substr(std::min(end, status.message().size()))));
}

}  // namespace

absl::Status Resolve(TrainFlags& f) {
  if (f.model.empty() && f.config.empty())
    return UsageError("--model, or --config and --tokenizer, is required");
  if (f.adapters.rank > 0 && f.model.empty()) return UsageError("--lora-rank needs --model");
  if (f.adapters.rank > 0 && f.device != "cpu")
    return UsageError("--lora-rank needs --device=cpu: adapters are trained on the CPU alone");
  if (!(f.adapters.alpha >= 0 && f.adapters.alpha <= 1e6))  // true for NaN
    return UsageError(absl::StrCat("--lora-alpha is ", f.adapters.alpha, ", must be in [0, 1e+06]"));
  if (f.adapters.alpha == 0) f.adapters.alpha = 2.0f * static_cast<float>(f.adapters.rank);
  absl::StatusOr<NoiseKind> kind = ParseNoiseKind(f.noise);
  if (!kind.ok()) return UsageError(absl::StrCat("--noise: ", kind.status().message()));
  f.trainer.noise.kind = *kind;
  f.trainer.loss_on_all = f.loss == "all";
  f.trainer.batch_order = f.batches == "by-length" ? BatchOrder::kByLength : BatchOrder::kMixed;
  f.trainer.recompute = f.recompute == "on";
  if (absl::Status status = f.trainer.Validate(); !status.ok()) return Named(status);
  // More is never held while it learns; nor then while it reads held-out samples.
  f.trainer.micro_tokens = std::min(f.trainer.micro_tokens, f.trainer.batch_tokens);
  if (f.max_length > f.trainer.batch_tokens) {
    return UsageError(
        absl::StrCat("--max-length is ", f.max_length, ", --batch-tokens only ", f.trainer.batch_tokens));
  }
  for (const std::string& nodes : f.evaluate_nodes) {
    int32_t count;
    const bool number =
        absl::SimpleAtoi(nodes, &count) && count >= 1 && count <= SpeculationOptions::kMaxNodes;
    if (number || nodes == "published") continue;
    return UsageError(absl::StrCat("--evaluate-nodes has '", nodes, "', must be 'published' or 1 to ",
                                   SpeculationOptions::kMaxNodes));
  }
  return absl::OkStatus();
}

nlohmann::json Fingerprint(const TrainFlags& f) {
  const TrainerOptions& t = f.trainer;
  nlohmann::json all = {{"noise", f.noise},
                        {"noise-length", t.noise.length},
                        {"noise-segments", t.noise.segments},
                        {"loss", f.loss},
                        {"epochs", t.epochs},
                        {"max-steps", t.max_steps},
                        {"batch-tokens", t.batch_tokens},
                        {"batches", f.batches},
                        {"lr", t.learning_rate},
                        {"min-lr", t.min_learning_rate},
                        {"warmup", t.warmup_steps},
                        {"weight-decay", t.weight_decay},
                        {"clip-norm", t.clip_norm},
                        {"beta1", t.beta1},
                        {"beta2", t.beta2},
                        {"seed", t.seed},
                        {"dtype", f.dtype},
                        {"lora-rank", f.adapters.rank},
                        {"lora-alpha", f.adapters.alpha}};
  if (f.device != "cpu") all.update({{"device", f.device}, {"micro-tokens", t.micro_tokens}});
  return all;
}

nlohmann::json DescribeFlags(const TrainFlags& f) {
  nlohmann::json all = Fingerprint(f);
  all.update({{"model", f.model},
              {"config", f.config},
              {"tokenizer", f.tokenizer},
              {"data", f.data},
              {"holdout", f.holdout},
              {"max-length", f.max_length},
              {"on-bad-sample", f.on_bad_sample},
              {"output", f.output},
              {"micro-tokens", f.trainer.micro_tokens},
              {"recompute", f.recompute},
              {"evaluate-prompts", f.evaluate_prompts},
              {"evaluate-tokens", f.evaluate_tokens},
              {"threads", f.threads}});
  for (const char* name : {"model", "config", "tokenizer", "holdout"}) {
    if (all[name] == "") all.erase(name);
  }
  return all;
}

}  // namespace clamor::cli
