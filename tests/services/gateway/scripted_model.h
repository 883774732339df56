// What a worker answers whose model is a hash: every token, its text and its log-probability are a function
// of the prompt, the seed and the tokens before, so that an answer that went through several workers can be
// compared with one that did not. Goes on with emitted_ids as a worker must.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/hash/hash.h"
#include "model/spec/answer_text.h"
#include "tests/services/gateway/fake_worker.h"

namespace clamor::testing {

// Called before the answer's token `index` is sent, from index 0 on, with what the worker was asked; anything
// but OK ends the call there. With the number of all tokens: before Finished.
using Fate = std::function<grpc::Status(grpc::ServerContext&, const FakeWorker::Request&, uint64_t index)>;

inline grpc::Status Survive(grpc::ServerContext&, const FakeWorker::Request&, uint64_t) {
  return grpc::Status::OK;
}

// As the client's end of a connection sees it when the worker's process is gone.
inline grpc::Status SocketClosed() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed"); }

class ScriptedModel {
 public:
  static constexpr uint32_t kDefaultMaxTokens = 30;

  ScriptedModel() : tokenizer_(Tokenizer::Load(*TokenizerFiles::Read(kModelDir)).value()) {}

  // Which must not outlive the model.
  FakeWorker::Script Script(Fate fate = Survive) const {
    return [this, fate](grpc::ServerContext& context, const FakeWorker::Request& request,
                        FakeWorker::Writer& writer) { return Answer(context, request, writer, fate); };
  }

 private:
  using Response = v1::WorkerServiceStreamGenerateResponse;

  grpc::Status Answer(grpc::ServerContext& context, const FakeWorker::Request& request,
                      FakeWorker::Writer& writer, const Fate& fate) const {
    const v1::GenerationOptions& options = request.options();
    const uint32_t most = options.has_max_tokens() ? options.max_tokens() : kDefaultMaxTokens;
    Response response;
    v1::Started& started = *response.mutable_started();
    started.set_request_id(request.request_id());
    started.set_seed(options.sampling().seed());
    started.set_model_revision("r1");
    started.set_prompt_tokens(static_cast<uint32_t>(request.prompt_ids_size()));
    started.set_max_tokens(most);
    writer.Write(response);

    AnswerText text(tokenizer_.get(), {options.stop().begin(), options.stop().end()}, options.min_tokens());
    std::vector<uint32_t> ids;
    std::string sent;
    bool stopped = false;
    const auto add = [&](uint32_t id, std::string& piece) {
      ids.push_back(id);
      stopped = text.Add(static_cast<int32_t>(id), piece);
      if (stopped || ids.size() == most) text.Finish(piece);
    };
    for (const uint32_t id : request.emitted_ids()) add(id, sent);
    const uint64_t begun = ids.size();
    v1::Finished finished;
    while (!stopped && ids.size() < most) {
      if (grpc::Status end = fate(context, request, ids.size()); !end.ok()) return end;
      const uint64_t hash =
          absl::HashOf(std::vector<uint32_t>(request.prompt_ids().begin(), request.prompt_ids().end()),
                       options.sampling().seed(), ids);
      v1::Delta& delta = *response.mutable_delta();
      delta.set_first_token_index(ids.size());
      delta.set_first_text_byte(sent.size());
      std::string piece;
      const uint32_t id = hash % 500;
      add(id, piece);
      delta.add_text_bytes(static_cast<uint32_t>(text.newest_bytes()));
      sent += piece;
      delta.set_text(piece);
      delta.add_token_ids(id);
      const bool drafted =
          hash % 3 == 0 && !stopped && ids.size() < most;  // a forward ends with a token of its own
      delta.add_sources(drafted ? v1::DRAFT_SOURCE_STORE : v1::DRAFT_SOURCE_UNSPECIFIED);
      v1::SpeculationStats& stats = *finished.mutable_speculation();
      if (drafted) {
        stats.mutable_accepted()->set_store(stats.accepted().store() + 1);
      } else {
        stats.set_forwards(stats.forwards() + 1);
      }
      if (options.has_top_logprobs()) delta.add_logprobs()->set_logprob(-static_cast<float>(hash % 1000));
      writer.Write(response);
      response.Clear();
    }
    if (grpc::Status end = fate(context, request, ids.size()); !end.ok()) return end;
    finished.set_reason(stopped ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
    finished.set_matched_stop(text.matched_stop());
    finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request.prompt_ids_size()));
    finished.mutable_usage()->set_completion_tokens(static_cast<uint32_t>(ids.size() - begun));
    *response.mutable_finished() = finished;
    writer.Write(response);
    return grpc::Status::OK;
  }

  const std::unique_ptr<const Tokenizer> tokenizer_;
};

}  // namespace clamor::testing
