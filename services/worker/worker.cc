#include "services/worker/worker.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/status_macros.h"
#include "services/log.h"
#include "services/worker/retrieval_drafter.h"

namespace clamor {
namespace {

v1::Numerics NumericsOf(const LoadedModel& model, bool exact) {
  if (model.on_device == nullptr) return v1::NUMERICS_BITWISE;
  return exact ? v1::NUMERICS_EXACT : v1::NUMERICS_FAST;
}

v1::ModelInfo Describe(const LoadedModel& model, bool exact, const std::string& name,
                       const std::string& revision) {
  v1::ModelInfo info;
  info.set_name(name);
  info.set_revision(revision);
  info.set_max_context_tokens(model.model().max_positions());
  info.set_vocab_size(model.model().config().vocab_size);
  info.set_tokenizer_fingerprint(model.files.Fingerprint());
  info.set_numerics(NumericsOf(model, exact));
  info.set_has_chat_template(model.chat_template != nullptr);
  for (const int32_t id : model.model().generation().eos_ids) info.add_eos_token_ids(id);
  info.set_weights(model.stored_as);
  info.set_kv_cache(std::string(kernels::KvFormatName(model.kv_format)));
  return info;
}

// Of a cache whose size nobody gave. A device's memory is there for it; more than all sequences can fill
// would serve common beginnings of texts alone.
int64_t RoomOfCache(const Model& model, const EngineOptions& engine) {
  const int64_t longest = model.max_positions() + 2 * SpeculationOptions::kMaxNodes;
  const int64_t least = std::max<int64_t>(32768, longest);
  const std::optional<int64_t> fit = model.KvTokensThatFit(PassLimitsOf(model, engine));
  if (!fit.has_value()) return least;
  const int64_t most = std::max(least, 2 * engine.max_sequences * longest);
  return std::clamp<int64_t>(*fit, 2 * SpeculationOptions::kMaxNodes,
                             std::min<int64_t>(most, int64_t{1} << 30));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Load(const WorkerOptions& options, WorkerMetrics* metrics) {
  uint64_t tenths = 0;
  ModelOptions model_options = options.model;
  model_options.may_be_on_device = true;
  CLAMOR_ASSIGN_OR_RETURN(LoadedModel model,
                          LoadModel(model_options, [&tenths](uint64_t done, uint64_t total) {
                            if (total == 0 || 10 * done / total <= tenths) return;
                            tenths = 10 * done / total;
                            spdlog::info("event=loading percent={}", 10 * tenths);
                          }));
  if (!model.no_device.empty()) {
    spdlog::info("event=device device=cpu reason={}", Quoted(model.no_device));
  }
  CLAMOR_ASSIGN_OR_RETURN(const std::string revision, ModelRevision(options.model.directory, HeldAs(model)));
  v1::ModelInfo info = Describe(model, options.model.numerics == "exact",
                                options.name.empty() ? model.name : options.name, revision);
  std::unique_ptr<Worker> worker(new Worker(std::move(model), std::move(info), metrics, options.tracer));
  const LoadedModel& loaded = worker->model_;
  if (!options.retrieval.empty()) worker->ConnectStore(options);
  EngineOptions engine = options.engine;
  engine.threads = loaded.threads;
  engine.kv_format = loaded.kv_format;
  if (engine.kv_tokens == 0) engine.kv_tokens = RoomOfCache(loaded.model(), engine);
  if (!options.state.empty()) {
    worker->knowledge_ = std::make_unique<KnowledgeFiles>(
        KnowledgeFilesOptions{.folder = options.state + "/drafting",
                              .tokenizer_fingerprint = worker->info_.tokenizer_fingerprint(),
                              .vocab_size = loaded.model().config().vocab_size},
        [](const absl::Status& trouble) {
          spdlog::warn("event=drafting_not_kept error={}", Quoted(trouble.ToString()));
        });
    engine.knowledge = worker->knowledge_.get();
  }
  CLAMOR_ASSIGN_OR_RETURN(worker->engine_, Engine::Create(&loaded.model(), loaded.tokenizer.get(),
                                                          worker->drafter_.get(), metrics, engine));
  spdlog::info(
      "event=kv_cache format={} tokens={} bytes={}", worker->info_.kv_cache(), engine.kv_tokens,
      KvCache::PagesFor(engine.kv_tokens) * KvCache::BytesPerPage(loaded.model().config(), engine.kv_format));
  worker->engine_thread_ = std::thread([w = worker.get()] { w->engine_->Run(w->stop_); });
  return worker;
}

void Worker::ConnectStore(const WorkerOptions& options) {
  const std::string& fingerprint = info_.tokenizer_fingerprint();
  WorkerMetrics* const metrics = metrics_;
  std::vector<std::unique_ptr<ContinuationSource>> drafters;
  for (const RetrievalShard& shard : options.retrieval) {
    const auto channel = MakeRetrievalChannel(shard.leader, options.tls);
    stores_.push_back(v1::RetrievalService::NewStub(channel));
    drafters.push_back(std::make_unique<RetrievalDrafter>(
        channel,
        RetrievalDrafterOptions{.tokenizer_fingerprint = fingerprint,
                                .vocab_size = model_.model().config().vocab_size,
                                .timeout = options.lookup_timeout},
        [metrics](LookupOutcome outcome, double seconds) { metrics->OnLookup(outcome, seconds); },
        shard.follower.empty() ? nullptr : MakeRetrievalChannel(shard.follower, options.tls),
        [metrics](Hedge hedge) { metrics->OnHedge(hedge); }));
    if (!options.store) continue;
    corpora_.push_back(
        std::make_unique<CorpusWriter>(channel, CorpusWriterOptions{.tokenizer_fingerprint = fingerprint},
                                       [metrics](CorpusOutcome outcome) { metrics->OnDocument(outcome); }));
  }
  drafter_ = std::make_unique<ShardedSource>(std::move(drafters), fingerprint);
}

CorpusWriter* Worker::corpus(std::string_view tenant) {
  if (corpora_.empty()) return nullptr;
  return corpora_[ShardOf(tenant, info_.tokenizer_fingerprint(), corpora_.size())].get();
}

Worker::Worker(LoadedModel model, v1::ModelInfo info, WorkerMetrics* metrics, Tracer* tracer)
    : model_(std::move(model)), info_(std::move(info)), metrics_(metrics), tracer_(tracer) {}

Worker::~Worker() {
  if (engine_thread_.joinable()) {
    stop_ = true;
    engine_->WakeUp();
    engine_thread_.join();
  }
  const absl::Time flushed_by = absl::Now() + absl::Seconds(2);
  for (const auto& corpus : corpora_) corpus->Flush(flushed_by);
}

}  // namespace clamor
