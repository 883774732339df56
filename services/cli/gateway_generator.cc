// A gateway's GenerationService, read on the calling thread.
#include <grpcpp/grpcpp.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clamor/v1/generation.grpc.pb.h"
#include "kernels/status_macros.h"
#include "services/cli/command.h"
#include "services/cli/connection.h"
#include "services/cli/generator.h"

namespace clamor::cli {
namespace {

v1::GenerationOptions ToProto(const Question& question) {
  v1::GenerationOptions options;
  if (question.options.max_tokens > 0) options.set_max_tokens(question.options.max_tokens);
  const SamplingOptions& sampling = question.options.sampling;
  v1::SamplingParameters& parameters = *options.mutable_sampling();
  parameters.set_temperature(sampling.temperature);
  parameters.set_top_p(sampling.top_p);
  parameters.set_top_k(sampling.top_k);
  parameters.set_min_p(sampling.min_p);
  if (question.seed.has_value()) parameters.set_seed(*question.seed);
  parameters.set_repetition_penalty(sampling.repetition_penalty);
  parameters.set_presence_penalty(sampling.presence_penalty);
  parameters.set_frequency_penalty(sampling.frequency_penalty);
  for (const TokenBias& added : sampling.logit_bias) {
    (*parameters.mutable_logit_bias())[static_cast<uint32_t>(added.token)] = added.bias;
  }
  parameters.mutable_banned_token_ids()->Add(sampling.banned_token_ids.begin(),
                                             sampling.banned_token_ids.end());
  options.mutable_stop_token_ids()->Add(question.options.stop_token_ids.begin(),
                                        question.options.stop_token_ids.end());
  options.set_min_tokens(static_cast<uint32_t>(question.options.min_tokens));
  if (question.options.top_logprobs) {
    options.set_top_logprobs(static_cast<uint32_t>(*question.options.top_logprobs));
  }
  for (const std::string& stop : question.options.stop) options.add_stop(stop);
  options.set_ignore_eos(question.options.ignore_eos);
  if (!question.json_schema.empty()) options.set_json_schema(question.json_schema);
  const SpeculationOptions& speculation = question.options.speculation;
  options.mutable_speculation()->set_nodes(speculation.nodes);
  options.mutable_speculation()->set_tree(
      speculation.shape == TreeShape::kPublished ? v1::DRAFT_TREE_PUBLISHED : v1::DRAFT_TREE_MERGED);
  return options;
}

Delta FromProto(const v1::Delta& message) {
  Delta delta;
  delta.first_token_index = static_cast<int64_t>(message.first_token_index());
  delta.token_ids.assign(message.token_ids().begin(), message.token_ids().end());
  delta.text = message.text();
  delta.sources.resize(delta.token_ids.size(), Source::kNone);
  for (int i = 0; i < message.sources_size() && i < message.token_ids_size(); ++i) {
    const int source = message.sources(i);
    if (source >= 0 && source < static_cast<int>(kSources)) delta.sources[i] = static_cast<Source>(source);
  }
  delta.text_bytes.assign(message.text_bytes().begin(), message.text_bytes().end());
  for (const v1::TokenLogprobs& logprobs : message.logprobs()) {
    TokenLogprobs& added = delta.logprobs.emplace_back(TokenLogprobs{.logprob = logprobs.logprob()});
    for (const v1::TokenLogprob& likely : logprobs.top()) {
      added.top.push_back({static_cast<int32_t>(likely.token_id()), likely.logprob()});
    }
  }
  return delta;
}

void FillFinished(const v1::Finished& message, Answer& answer) {
  answer.finish_reason = message.reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
  answer.matched_stop = message.matched_stop();
  answer.prompt_tokens = message.usage().prompt_tokens();
  answer.stats.queue_seconds = message.timings().queue_seconds();
  answer.stats.prefill_seconds = message.timings().prefill_seconds();
  answer.stats.decode_seconds = message.timings().decode_seconds();
  answer.stats.forwards = static_cast<int64_t>(message.speculation().forwards());
  answer.stats.draft_nodes = static_cast<int64_t>(message.speculation().draft_nodes());
  const v1::AcceptedBySource& accepted = message.speculation().accepted();
  const auto set = [&](Source source, uint64_t count) {
    answer.stats.accepted_by_source[static_cast<size_t>(source)] = static_cast<int64_t>(count);
  };
  set(Source::kJacobi, accepted.jacobi());
  set(Source::kContext, accepted.context());
  set(Source::kStore, accepted.store());
  set(Source::kAdjacency, accepted.adjacency());
  set(Source::kRecycled, accepted.recycled());
  set(Source::kNoise, accepted.noise());
}

// Passes Ctrl-C on to a call that blocks in Read.
class CancelOnInterrupt {
 public:
  explicit CancelOnInterrupt(grpc::ClientContext& context)
      : watcher_([this, &context] {
          absl::MutexLock lock(&mu_);
          while (!done_) {
            if (Interrupted()) {
              context.TryCancel();
              return;
            }
            mu_.AwaitWithTimeout(absl::Condition(&done_), absl::Milliseconds(50));  // a signal wakes no mutex
          }
        }) {}
  ~CancelOnInterrupt() {
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
    }
    watcher_.join();
  }

 private:
  absl::Mutex mu_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::thread watcher_;
};

class GatewayGenerator final : public Generator {
 public:
  GatewayGenerator(const std::shared_ptr<grpc::Channel>& channel, std::string model)
      : stub_(v1::GenerationService::NewStub(channel)), model_(std::move(model)) {}

  absl::StatusOr<Answer> Generate(const Question& question,
                                  absl::FunctionRef<void(const Delta&)> on_delta) override {
    grpc::ClientContext context;
    context.set_wait_for_ready(false);
    if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&question.prompt)) {
      v1::StreamChatRequest request;
      request.set_model(model_);
      for (const ChatMessage& message : *messages) {
        v1::ChatMessage& turn = *request.add_messages();
        turn.set_role(message.role);
        turn.set_content(message.content);
      }
      *request.mutable_options() = ToProto(question);
      return Read<v1::StreamChatResponse>(context, *stub_->StreamChat(&context, request), question, on_delta);
    }
    v1::StreamGenerateRequest request;
    request.set_model(model_);
    if (const auto* text = std::get_if<std::string>(&question.prompt)) {
      request.set_text(*text);
    } else {
      const auto& ids = std::get<std::vector<int32_t>>(question.prompt);
      request.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
    }
    *request.mutable_options() = ToProto(question);
    return Read<v1::StreamGenerateResponse>(context, *stub_->StreamGenerate(&context, request), question,
                                            on_delta);
  }

 private:
  template <typename Response>
  absl::StatusOr<Answer> Read(grpc::ClientContext& context, grpc::ClientReader<Response>& reader,
                              const Question& question, absl::FunctionRef<void(const Delta&)> on_delta) {
    Answer answer;
    if (question.options.top_logprobs) answer.logprobs.emplace();
    {
      CancelOnInterrupt cancel(context);
      Response response;
      while (reader.Read(&response)) {
        if (response.has_started()) {
          answer.model = response.started().model();
          answer.seed = response.started().seed();
          answer.prompt_tokens = response.started().prompt_tokens();
        } else if (response.has_delta()) {
          const Delta delta = FromProto(response.delta());
          answer.Add(delta);
          on_delta(delta);
        } else if (response.has_finished()) {
          FillFinished(response.finished(), answer);
        }
      }
    }
    const grpc::Status status = reader.Finish();
    if (status.error_code() == grpc::StatusCode::CANCELLED && Interrupted()) {
      answer.finish_reason = "cancelled";
      return answer;
    }
    if (!status.ok()) return ServerStatus(status);
    if (answer.finish_reason.empty())
      return absl::InternalError("--server: the stream ended without its end");
    return answer;
  }

  std::unique_ptr<v1::GenerationService::Stub> stub_;
  std::string model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> MakeGatewayGenerator(const std::string& server,
                                                                const ConnectionFlags& connection,
                                                                const std::string& model) {
  CLAMOR_ASSIGN_OR_RETURN(const auto channel, Connect(server, connection));
  return std::make_unique<GatewayGenerator>(channel, model);
}

}  // namespace clamor::cli
