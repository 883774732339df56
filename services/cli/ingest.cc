// `clamor ingest`: files of text into a store, through a retrieval service or straight into its folder; or,
// for large corpora, into segments that a store loads later.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "kernels/status_macros.h"
#include "retrieval/bulk_files.h"
#include "retrieval/suffix_store.h"
#include "services/cli/command.h"
#include "services/cli/connection.h"
#include "services/cli/documents.h"
#include "services/worker/corpus_writer.h"

namespace clamor::cli {
namespace {

constexpr size_t kBatchDocuments = 64;
constexpr size_t kBatchTokens = 256 << 10;
constexpr size_t kMaxDocumentTokens = 1 << 20;  // RetrievalService's

struct Flags {
  std::string server, store, segments, load, model;
  ConnectionFlags connection;
  std::string tenant = "default";
  std::vector<std::string> files;
  uint64_t limit = 0;
  uint32_t segment_tokens = 16 << 20;
  int jobs = 1;
  bool skip_bad = false;
};

struct Totals {
  uint64_t documents = 0, stored = 0, skipped = 0, tokens = 0, bytes = 0;
};

// Where documents go.
class Destination {
 public:
  virtual ~Destination() = default;
  // The number of documents that were not there before. Safe to repeat.
  virtual absl::StatusOr<uint64_t> Append(const std::vector<TokenDocument>& documents) = 0;
};

class StoreFolder final : public Destination {
 public:
  StoreFolder(std::unique_ptr<retrieval::SuffixStore> store, retrieval::Namespace ns)
      : store_(std::move(store)), namespace_(std::move(ns)) {}

  absl::StatusOr<uint64_t> Append(const std::vector<TokenDocument>& documents) override {
    uint64_t stored = 0;
    for (const TokenDocument& document : documents) {
      const std::vector<uint32_t> tokens(document.ids.begin(), document.ids.end());
      CLAMOR_ASSIGN_OR_RETURN(const bool added, store_->Append(namespace_, DocumentId(document.ids), tokens));
      stored += added ? 1 : 0;
    }
    return stored;
  }

 private:
  std::unique_ptr<retrieval::SuffixStore> store_;
  const retrieval::Namespace namespace_;
};

class StoreServer final : public Destination {
 public:
  StoreServer(const std::shared_ptr<grpc::Channel>& channel, retrieval::Namespace ns)
      : stub_(v1::RetrievalService::NewStub(channel)), namespace_(std::move(ns)) {}

  absl::StatusOr<uint64_t> Append(const std::vector<TokenDocument>& documents) override {
    v1::AppendRequest request;
    for (const TokenDocument& document : documents) {
      v1::Document& message = *request.add_documents();
      message.mutable_namespace_()->set_tenant(namespace_.tenant);
      message.mutable_namespace_()->set_tokenizer_fingerprint(namespace_.fingerprint);
      message.set_id(DocumentId(document.ids));
      message.mutable_tokens()->Assign(document.ids.begin(), document.ids.end());
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    v1::AppendResponse response;
    if (grpc::Status status = stub_->Append(&context, request, &response); !status.ok())
      return ServerStatus(status);
    uint64_t stored = 0;
    for (const int outcome : response.outcomes()) stored += outcome == v1::APPEND_OUTCOME_STORED ? 1 : 0;
    return stored;
  }

 private:
  std::unique_ptr<v1::RetrievalService::Stub> stub_;
  const retrieval::Namespace namespace_;
};

class SegmentFolder final : public Destination {
 public:
  explicit SegmentFolder(retrieval::BulkWriter* writer) : writer_(writer) {}

  absl::StatusOr<uint64_t> Append(const std::vector<TokenDocument>& documents) override {
    for (const TokenDocument& document : documents) {
      const std::vector<uint32_t> tokens(document.ids.begin(), document.ids.end());
      CLAMOR_RETURN_IF_ERROR(writer_->Add(DocumentId(document.ids), tokens));
    }
    return documents.size();
  }

 private:
  retrieval::BulkWriter* const writer_;
};

absl::StatusOr<std::unique_ptr<Destination>> OpenDestination(const Flags& flags, retrieval::Namespace ns) {
  if (!flags.server.empty()) {
    CLAMOR_ASSIGN_OR_RETURN(const auto channel, Connect(flags.server, flags.connection));
    return std::make_unique<StoreServer>(channel, std::move(ns));
  }
  auto store = retrieval::SuffixStore::Open({.path = flags.store});
  if (!store.ok()) return store.status();
  return std::make_unique<StoreFolder>(*std::move(store), std::move(ns));
}

class Ingestion {
 public:
  Ingestion(const Flags& flags, const LoadedModel& tokenizer, Destination& destination)
      : flags_(flags), tokenizer_(tokenizer), destination_(destination) {}

  absl::StatusOr<Totals> Run(const std::vector<std::string>& files) {
    for (const std::string& path : files) CLAMOR_RETURN_IF_ERROR(ReadFile(path));
    CLAMOR_RETURN_IF_ERROR(Flush());
    if (shown_ > absl::InfinitePast()) std::fputs("\r\033[K", stderr);
    return totals_;
  }

 private:
  bool enough() const { return flags_.limit > 0 && totals_.documents >= flags_.limit; }

  absl::Status ReadFile(const std::string& path) {
    CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<DocumentReader> reader,
                            DocumentReader::Open(path, &tokenizer_));
    while (!enough()) {
      auto next = reader->Next();
      if (!next.ok()) {
        if (!flags_.skip_bad || !absl::IsInvalidArgument(next.status())) return next.status();
        ++totals_.skipped;
        continue;
      }
      if (!next->has_value()) break;
      CLAMOR_RETURN_IF_ERROR(Add(**std::move(next)));
    }
    return absl::OkStatus();
  }

  absl::Status Add(TokenDocument document) {
    totals_.bytes += document.bytes;
    ++totals_.documents;
    for (size_t begin = 0; begin < document.ids.size(); begin += kMaxDocumentTokens) {
      const size_t end = std::min(document.ids.size(), begin + kMaxDocumentTokens);
      batch_.push_back({{document.ids.begin() + begin, document.ids.begin() + end}, 0});
      batch_tokens_ += end - begin;
      if (batch_.size() >= kBatchDocuments || batch_tokens_ >= kBatchTokens) CLAMOR_RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (batch_.empty()) return absl::OkStatus();
    CLAMOR_ASSIGN_OR_RETURN(const uint64_t stored, destination_.Append(batch_));
    totals_.stored += stored;
    totals_.tokens += batch_tokens_;
    batch_.clear();
    batch_tokens_ = 0;
    if (isatty(STDERR_FILENO) && absl::Now() - shown_ > absl::Milliseconds(200)) {
      shown_ = absl::Now();
      std::fprintf(stderr, "\r%s",
                   absl::StrFormat("%d documents, %d tokens", totals_.documents, totals_.tokens).c_str());
    }
    return absl::OkStatus();
  }

  const Flags& flags_;
  const LoadedModel& tokenizer_;
  Destination& destination_;
  std::vector<TokenDocument> batch_;
  size_t batch_tokens_ = 0;
  Totals totals_;
  absl::Time shown_ = absl::InfinitePast();
};

std::string Words(const Totals& totals, absl::string_view stored) {
  const std::string skipped =
      totals.skipped > 0 ? absl::StrFormat(", %d bad lines skipped", totals.skipped) : "";
  return absl::StrFormat("%d documents (%s), %d tokens, %d bytes%s", totals.documents, stored, totals.tokens,
                         totals.bytes, skipped);
}

// Each job takes every jobs-th file and has its own segments.
absl::Status BuildSegments(const Flags& flags, const LoadedModel& tokenizer) {
  if (flags.jobs > 1 && flags.limit > 0) return UsageError("--limit counts in one job: leave out --jobs");
  const retrieval::Namespace ns{.tenant = flags.tenant, .fingerprint = tokenizer.files.Fingerprint()};
  CLAMOR_RETURN_IF_ERROR(retrieval::ValidateNamespace(ns));
  struct Job {
    absl::StatusOr<Totals> totals;
    uint64_t segments = 0;
  };
  std::vector<Job> jobs(flags.jobs);
  std::vector<std::thread> threads;
  for (size_t job = 0; job < jobs.size(); ++job) {
    threads.emplace_back([&, job] {
      std::vector<std::string> files;
      for (size_t i = job; i < flags.files.size(); i += jobs.size()) files.push_back(flags.files[i]);
      retrieval::BulkWriter writer(flags.segments, ns, flags.segment_tokens);
      SegmentFolder destination(&writer);
      jobs[job].totals = Ingestion(flags, tokenizer, destination).Run(files);
      if (!jobs[job].totals.ok()) return;
      if (absl::Status finished = writer.Finish(); !finished.ok()) jobs[job].totals = finished;
      jobs[job].segments = writer.segments();
    });
  }
  for (std::thread& thread : threads) thread.join();
  Totals sum;
  uint64_t segments = 0;
  for (const Job& job : jobs) {
    CLAMOR_RETURN_IF_ERROR(job.totals.status());
    sum.documents += job.totals->documents;
    sum.skipped += job.totals->skipped;
    sum.tokens += job.totals->tokens;
    sum.bytes += job.totals->bytes;
    segments += job.segments;
  }
  std::printf("%s\n", Words(sum, absl::StrFormat("in %d segments", segments)).c_str());
  return absl::OkStatus();
}

absl::StatusOr<v1::LoadSegmentsResponse> LoadOnServer(const Flags& flags) {
  v1::LoadSegmentsRequest request;
  request.set_name(flags.load);
  CLAMOR_ASSIGN_OR_RETURN(const auto channel, Connect(flags.server, flags.connection));
  const auto stub = v1::RetrievalService::NewStub(channel);
  grpc::ClientContext context;  // no deadline: reading a large corpus takes its time
  v1::LoadSegmentsResponse response;
  if (grpc::Status status = stub->LoadSegments(&context, request, &response); !status.ok())
    return ServerStatus(status);
  return response;
}

absl::StatusOr<v1::LoadSegmentsResponse> LoadIntoFolder(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const auto store, retrieval::SuffixStore::Open({.path = flags.store}));
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<std::string> paths, retrieval::ListBulkSegments(flags.load));
  v1::LoadSegmentsResponse response;
  for (const std::string& path : paths) {
    CLAMOR_ASSIGN_OR_RETURN(const retrieval::LoadOutcome loaded, store->LoadSegment(path));
    response.set_segments(response.segments() + 1);
    response.set_stored(response.stored() + loaded.stored);
    response.set_unchanged(response.unchanged() + loaded.unchanged);
    response.set_tokens(response.tokens() + loaded.tokens);
  }
  return response;
}

absl::Status Load(const Flags& flags) {
  CLAMOR_ASSIGN_OR_RETURN(const v1::LoadSegmentsResponse loaded,
                          flags.server.empty() ? LoadIntoFolder(flags) : LoadOnServer(flags));
  std::printf("%s\n", absl::StrFormat("%d documents (%d new), %d new tokens, from %d segments",
                                      loaded.stored() + loaded.unchanged(), loaded.stored(), loaded.tokens(),
                                      loaded.segments())
                          .c_str());
  return absl::OkStatus();
}

absl::Status Ingest(const Flags& flags) {
  if (flags.segments.empty() && flags.server.empty() && flags.store.empty())
    return UsageError("give --server HOST:PORT, --store DIR or --segments DIR");
  if (!flags.load.empty()) return Load(flags);
  if (flags.model.empty()) return UsageError("--model is required");
  if (flags.files.empty()) return UsageError("files is required");
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel tokenizer, LoadTokenizer(flags.model));
  if (!flags.segments.empty()) return BuildSegments(flags, tokenizer);
  CLAMOR_ASSIGN_OR_RETURN(
      const std::unique_ptr<Destination> destination,
      OpenDestination(flags, {.tenant = flags.tenant, .fingerprint = tokenizer.files.Fingerprint()}));
  CLAMOR_ASSIGN_OR_RETURN(const Totals totals, Ingestion(flags, tokenizer, *destination).Run(flags.files));
  std::printf("%s\n", Words(totals, absl::StrFormat("%d new", totals.stored)).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddIngest(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("ingest", "Put files of text into a store that drafts are taken from");
  verb->add_option("files", flags->files, "*.jsonl (text | prompt, response | messages) or plain text");
  verb->add_option("--model", flags->model, "Model directory, for its tokenizer and template");
  CLI::Option* store = verb->add_option("--store", flags->store, "Folder of a store that no server has open")
                           ->group("Destination");
  CLI::Option* server = verb->add_option("--server", flags->server, "HOST:PORT of a retrieval service")
                            ->excludes(store)
                            ->group("Destination");
  AddConnectionFlags(*verb, flags->connection);
  CLI::Option* segments = verb->add_option("--segments", flags->segments,
                                           "Folder for segments, to be loaded into a store later with --load")
                              ->excludes(store)
                              ->excludes(server)
                              ->group("Large corpora");
  verb->add_option("--segment-tokens", flags->segment_tokens,
                   "Of one segment; each job takes 24 bytes a token")
      ->check(CLI::Range(1 << 20, 32 << 20))
      ->capture_default_str()
      ->needs(segments)
      ->group("Large corpora");
  verb->add_option("--jobs", flags->jobs, "Share the files between so many threads")
      ->check(CLI::Range(1, 256))
      ->capture_default_str()
      ->needs(segments)
      ->group("Large corpora");
  verb->add_option(
          "--load", flags->load,
          "Load the segments of this folder: a path with --store, a name under the server's --loads with "
          "--server")
      ->excludes(segments)
      ->group("Large corpora");
  verb->add_option("--tenant", flags->tenant, "Whose documents they are")
      ->capture_default_str()
      ->group("Destination");
  verb->add_option("--limit", flags->limit, "Stop after this many documents; 0: all");
  verb->add_flag("--skip-bad", flags->skip_bad, "Leave out lines that cannot be read, and count them");
  verb->callback([flags, &run] { run = [flags] { return Ingest(*flags); }; });
}

}  // namespace clamor::cli
