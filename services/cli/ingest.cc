// `clamor ingest`: files of text into a store, through a retrieval service or straight into its folder.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "clamor/v1/retrieval.grpc.pb.h"
#include "kernels/status_macros.h"
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
  std::string server, store, model;
  ConnectionFlags connection;
  std::string tenant = "default";
  std::vector<std::string> files;
  uint64_t limit = 0;
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

  absl::StatusOr<Totals> Run() {
    for (const std::string& path : flags_.files) CLAMOR_RETURN_IF_ERROR(ReadFile(path));
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

absl::Status Ingest(const Flags& flags) {
  if (flags.server.empty() && flags.store.empty())
    return UsageError("give --server HOST:PORT or --store DIR");
  CLAMOR_ASSIGN_OR_RETURN(const LoadedModel tokenizer, LoadTokenizer(flags.model));
  CLAMOR_ASSIGN_OR_RETURN(
      const std::unique_ptr<Destination> destination,
      OpenDestination(flags, {.tenant = flags.tenant, .fingerprint = tokenizer.files.Fingerprint()}));
  CLAMOR_ASSIGN_OR_RETURN(const Totals totals, Ingestion(flags, tokenizer, *destination).Run());
  const std::string skipped =
      totals.skipped > 0 ? absl::StrFormat(", %d bad lines skipped", totals.skipped) : "";
  std::printf("%s\n", absl::StrFormat("%d documents (%d new), %d tokens, %d bytes%s", totals.documents,
                                      totals.stored, totals.tokens, totals.bytes, skipped)
                          .c_str());
  return absl::OkStatus();
}

}  // namespace

void AddIngest(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("ingest", "Put files of text into a store that drafts are taken from");
  verb->add_option("files", flags->files, "*.jsonl (text | prompt, response | messages) or plain text")
      ->required();
  verb->add_option("--model", flags->model, "Model directory, for its tokenizer and template")->required();
  CLI::Option* store = verb->add_option("--store", flags->store, "Folder of a store that no server has open")
                           ->group("Destination");
  verb->add_option("--server", flags->server, "HOST:PORT of a retrieval service")
      ->excludes(store)
      ->group("Destination");
  AddConnectionFlags(*verb, flags->connection);
  verb->add_option("--tenant", flags->tenant, "Whose documents they are")
      ->capture_default_str()
      ->group("Destination");
  verb->add_option("--limit", flags->limit, "Stop after this many documents; 0: all");
  verb->add_flag("--skip-bad", flags->skip_bad, "Leave out lines that cannot be read, and count them");
  verb->callback([flags, &run] { run = [flags] { return Ingest(*flags); }; });
}

}  // namespace clamor::cli
