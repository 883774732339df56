// The worker as a whole, over gRPC, with a tiny model.
#include "services/worker/worker_service.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "services/rpc_error.h"
#include "tests/services/worker/fake_retrieval.h"

namespace clamor {
namespace {

using Message = v1::WorkerServiceStreamGenerateRequest;

Message Ask(std::vector<uint32_t> prompt, uint32_t max_tokens, int nodes = -1) {
  Message message;
  message.set_request_id("r");
  message.set_tenant("default");
  message.mutable_prompt_ids()->Add(prompt.begin(), prompt.end());
  message.mutable_options()->set_max_tokens(max_tokens);
  message.mutable_options()->set_ignore_eos(true);
  message.mutable_options()->mutable_speculation()->set_nodes(nodes);
  return message;
}

TEST(ParseRequestTest, DefaultsAreTheEngines) {
  Message message = Ask({1, 2}, 8);
  message.mutable_options()->clear_speculation();
  const auto request = ParseRequest(message, 1000);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt_ids, testing::ElementsAre(1, 2));
  EXPECT_EQ(request->max_tokens, 8);
  EXPECT_TRUE(request->sampling.greedy());
  EXPECT_EQ(request->sampling.top_p, 1.0f);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.0f);
  EXPECT_FALSE(request->top_logprobs.has_value());
  EXPECT_EQ(request->speculation.nodes, SpeculationOptions::kAuto);
  EXPECT_EQ(request->tenant, "default");
  EXPECT_TRUE(request->use_store);
}

TEST(ParseRequestTest, ReadsEveryField) {
  Message message = Ask({1}, 9, 7);
  message.add_emitted_ids(5);
  message.set_tenant("a.b-c_D1");
  v1::GenerationOptions& options = *message.mutable_options();
  options.mutable_sampling()->set_temperature(0.5);
  options.mutable_sampling()->set_top_p(0.9f);
  options.mutable_sampling()->set_top_k(40);
  options.mutable_sampling()->set_min_p(0.1f);
  options.mutable_sampling()->set_seed(18446744073709551615u);
  options.mutable_sampling()->set_repetition_penalty(1.5f);
  options.mutable_sampling()->set_presence_penalty(-0.5f);
  options.mutable_sampling()->set_frequency_penalty(0.25f);
  (*options.mutable_sampling()->mutable_logit_bias())[7] = -100;
  options.mutable_sampling()->add_banned_token_ids(999);
  options.add_stop_token_ids(3);
  options.set_min_tokens(9);
  options.set_top_logprobs(0);
  options.add_stop("END");
  options.mutable_speculation()->set_tree(v1::DRAFT_TREE_PUBLISHED);
  options.set_draft_scope(v1::DRAFT_SCOPE_NONE);
  options.set_priority(v1::PRIORITY_HIGH);
  const auto request = ParseRequest(message, 1000);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->emitted_ids, testing::ElementsAre(5));
  EXPECT_EQ(request->tenant, "a.b-c_D1");
  EXPECT_FALSE(request->use_store);
  EXPECT_EQ(request->priority, Priority::kHigh);
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_p, 0.9f);
  EXPECT_EQ(request->sampling.top_k, 40);
  EXPECT_EQ(request->sampling.min_p, 0.1f);
  EXPECT_EQ(request->sampling.seed, 18446744073709551615u);
  EXPECT_EQ(request->sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request->sampling.presence_penalty, -0.5f);
  EXPECT_EQ(request->sampling.frequency_penalty, 0.25f);
  ASSERT_EQ(request->sampling.logit_bias.size(), 1u);
  EXPECT_EQ(request->sampling.logit_bias[0].token, 7);
  EXPECT_EQ(request->sampling.logit_bias[0].bias, -100.0f);
  EXPECT_THAT(request->sampling.banned_token_ids, testing::ElementsAre(999));
  EXPECT_THAT(request->stop_token_ids, testing::ElementsAre(3));
  EXPECT_EQ(request->min_tokens, 9);
  EXPECT_EQ(request->top_logprobs, 0);
  EXPECT_THAT(request->stop, testing::ElementsAre("END"));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_EQ(request->speculation.nodes, 7);
  EXPECT_EQ(request->speculation.shape, TreeShape::kPublished);
}

TEST(ParseRequestTest, NamesTheFieldThatIsWrong) {
  const struct {
    const char* field;
    std::function<void(Message&)> spoil;
  } cases[] = {
      {"tenant", [](Message& m) { m.set_tenant(""); }},
      {"tenant", [](Message& m) { m.set_tenant("a/none"); }},
      {"request_id", [](Message& m) { m.set_request_id(std::string(1000, 'x')); }},
      {"prompt_ids[1]", [](Message& m) { m.add_prompt_ids(4294967295u); }},
      {"emitted_ids[0]", [](Message& m) { m.add_emitted_ids(2147483648u); }},
      {"options.max_tokens", [](Message& m) { m.mutable_options()->set_max_tokens(0); }},
      {"options.max_tokens", [](Message& m) { m.mutable_options()->set_max_tokens(4294967295u); }},
      {"options.sampling.temperature",
       [](Message& m) {
         m.mutable_options()->mutable_sampling()->set_temperature(-1);
         m.mutable_options()->mutable_sampling()->set_seed(1);
       }},
      {"options.sampling.seed",
       [](Message& m) { m.mutable_options()->mutable_sampling()->set_temperature(1); }},
      {"options.sampling.top_k",
       [](Message& m) { m.mutable_options()->mutable_sampling()->set_top_k(4294967295u); }},
      {"options.sampling.top_p", [](Message& m) { m.mutable_options()->mutable_sampling()->set_top_p(0); }},
      {"options.sampling.repetition_penalty",
       [](Message& m) { m.mutable_options()->mutable_sampling()->set_repetition_penalty(0); }},
      {"options.sampling.presence_penalty",
       [](Message& m) { m.mutable_options()->mutable_sampling()->set_presence_penalty(3); }},
      {"options.sampling.frequency_penalty",
       [](Message& m) { m.mutable_options()->mutable_sampling()->set_frequency_penalty(-3); }},
      {"options.sampling.logit_bias[5]",
       [](Message& m) { (*m.mutable_options()->mutable_sampling()->mutable_logit_bias())[5] = 101; }},
      {"options.sampling.logit_bias[1000]",
       [](Message& m) { (*m.mutable_options()->mutable_sampling()->mutable_logit_bias())[1000] = 1; }},
      {"options.sampling.logit_bias[4294967295]",
       [](Message& m) { (*m.mutable_options()->mutable_sampling()->mutable_logit_bias())[~0u] = 1; }},
      {"options.sampling.banned_token_ids[0]",
       [](Message& m) { m.mutable_options()->mutable_sampling()->add_banned_token_ids(1000); }},
      {"options.sampling.banned_token_ids[0]",
       [](Message& m) { m.mutable_options()->mutable_sampling()->add_banned_token_ids(~0u); }},
      {"options.stop_token_ids[0]", [](Message& m) { m.mutable_options()->add_stop_token_ids(1000); }},
      {"options.stop_token_ids holds 65",
       [](Message& m) { m.mutable_options()->mutable_stop_token_ids()->Resize(65, 1); }},
      {"options.min_tokens", [](Message& m) { m.mutable_options()->set_min_tokens(9); }},
      {"options.min_tokens", [](Message& m) { m.mutable_options()->set_min_tokens(~0u); }},
      {"options.top_logprobs", [](Message& m) { m.mutable_options()->set_top_logprobs(21); }},
      {"options.top_logprobs", [](Message& m) { m.mutable_options()->set_top_logprobs(~0u); }},
      {"options.stop[0]", [](Message& m) { m.mutable_options()->add_stop(""); }},
      {"options.speculation.nodes",
       [](Message& m) { m.mutable_options()->mutable_speculation()->set_nodes(129); }},
      {"options.speculation.nodes",
       [](Message& m) { m.mutable_options()->mutable_speculation()->set_nodes(-2); }},
      {"options.speculation.tree",
       [](Message& m) {
         m.mutable_options()->mutable_speculation()->set_tree(static_cast<v1::DraftTree>(9));
       }},
      {"options.draft_scope",
       [](Message& m) { m.mutable_options()->set_draft_scope(static_cast<v1::DraftScope>(9)); }},
      {"options.priority",
       [](Message& m) { m.mutable_options()->set_priority(static_cast<v1::Priority>(9)); }},
  };
  for (const auto& c : cases) {
    Message message = Ask({1}, 8);
    c.spoil(message);
    const auto request = ParseRequest(message, 1000);
    EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << c.field << ": " << request.status();
    EXPECT_THAT(std::string(request.status().message()), testing::StartsWith(c.field));
  }
}

class WorkerServiceTest : public testing::Test {
 protected:
  void Start(const std::function<void(WorkerOptions&)>& adjust = nullptr) {
    WorkerOptions options;
    if (adjust) adjust(options);
    options.model.directory = std::string(CLAMOR_TESTDATA) + "/tiny-qwen2";
    options.model.threads = 1;
    options.engine.default_nodes = 8;
    metrics_ = std::make_unique<WorkerMetrics>(registry_, "tiny", "test");
    auto worker = Worker::Load(options, metrics_.get());
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    service_.Serve(worker_.get());
  }
  void SetUp() override {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::WorkerService::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
  }
  void TearDown() override {
    server_->Shutdown(std::chrono::system_clock::now());
    worker_.reset();
  }

  struct Stream {
    v1::Started started;
    std::vector<uint32_t> ids;
    std::string text;
    uint64_t first_text_byte = 0;  // of the first delta
    v1::Finished finished;
    grpc::Status status;
  };
  Stream Run(const Message& message) {
    Stream result;
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, message);
    v1::WorkerServiceStreamGenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_started()) result.started = response.started();
      if (response.has_finished()) result.finished = response.finished();
      EXPECT_TRUE(!response.has_delta() ||
                  response.delta().first_token_index() == result.ids.size() + message.emitted_ids_size());
      if (response.has_delta()) {
        if (result.ids.empty()) result.first_text_byte = response.delta().first_text_byte();
        EXPECT_EQ(response.delta().first_text_byte(), result.first_text_byte + result.text.size());
      }
      result.ids.insert(result.ids.end(), response.delta().token_ids().begin(),
                        response.delta().token_ids().end());
      result.text += response.delta().text();
    }
    result.status = reader->Finish();
    return result;
  }

  int port_ = 0;
  bool drained_ = false;
  prometheus::Registry registry_;
  std::unique_ptr<WorkerMetrics> metrics_;
  WorkerService service_{[this] { drained_ = true; }};
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

TEST_F(WorkerServiceTest, IsUnavailableUntilLoaded) {
  EXPECT_EQ(Run(Ask({1}, 4)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetLoadResponse load;
  EXPECT_EQ(stub_->GetLoad(&context, {}, &load).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerServiceTest, AnswersManyAtOnceAsEachAlone) {
  Start([](WorkerOptions& options) { options.engine.max_sequences = 4; });
  std::vector<Message> messages;
  for (uint32_t i = 0; i < 12; ++i)
    messages.push_back(Ask({i + 1, 2 * i + 5, 7}, 24, static_cast<int>(i % 3) * 8));
  std::vector<Stream> alone, together(messages.size());
  for (const Message& message : messages) alone.push_back(Run(message));
  std::vector<std::thread> clients;
  for (size_t i = 0; i < messages.size(); ++i)
    clients.emplace_back([&, i] { together[i] = Run(messages[i]); });
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSERT_TRUE(alone[i].status.ok()) << alone[i].status.error_message();
    ASSERT_TRUE(together[i].status.ok()) << together[i].status.error_message();
    EXPECT_EQ(alone[i].ids.size(), 24u);
    EXPECT_EQ(alone[i].ids, together[i].ids) << i;
    EXPECT_EQ(alone[i].finished.reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(alone[i].finished.usage().completion_tokens(), 24u);
    EXPECT_EQ(alone[i].started.prompt_tokens(), 3u);
    EXPECT_EQ(alone[i].started.model(), "tiny-qwen2");
    EXPECT_EQ(alone[i].started.model_revision(), worker_->info().revision());
  }
  std::string text;
  EXPECT_TRUE(Eventually([&] {  // the last step is reported after its tokens are sent
    text = prometheus::TextSerializer().Serialize(registry_.Collect());
    return text.find("clamor_generated_tokens_total{model=\"tiny\"} 576\n") != std::string::npos;
  }));
  for (const char* name :
       {"clamor_generated_tokens_total", "clamor_forwards_total", "clamor_step_phase_seconds_bucket",
        "clamor_step_rows_bucket", "clamor_draft_nodes_total", "clamor_accept_length_bucket",
        "clamor_queue_seconds_bucket", "clamor_build_info", "clamor_preemptions_total"}) {
    EXPECT_THAT(text, testing::HasSubstr(name));
  }
}

TEST_F(WorkerServiceTest, GoesOnWithAnAnswerBegunElsewhere) {
  Start();
  const Stream whole = Run(Ask({3, 4, 5}, 20));
  ASSERT_TRUE(whole.status.ok());
  Message rest = Ask({3, 4, 5}, 20);
  rest.mutable_emitted_ids()->Add(whole.ids.begin(), whole.ids.begin() + 7);
  const Stream continued = Run(rest);
  ASSERT_TRUE(continued.status.ok()) << continued.status.error_message();
  EXPECT_EQ(continued.ids, std::vector<uint32_t>(whole.ids.begin() + 7, whole.ids.end()));
  ASSERT_LE(continued.first_text_byte, whole.text.size());
  EXPECT_EQ(whole.text.substr(0, continued.first_text_byte) + continued.text, whole.text);
}

TEST_F(WorkerServiceTest, TellsHowLongAnAnswerMayGetWhereNobodySaidSo) {
  Start([](WorkerOptions& options) { options.engine.kv_tokens = 256; });
  Message message = Ask({3, 4, 5}, 20);
  EXPECT_EQ(Run(message).started.max_tokens(), 20u);
  message.mutable_options()->clear_max_tokens();
  const Stream stream = Run(message);
  EXPECT_EQ(stream.started.max_tokens(), 256u - 128 - 3) << "what the cache has room for beside guesses";
  EXPECT_EQ(stream.ids.size(), stream.started.max_tokens());
}

TEST_F(WorkerServiceTest, LoadTellsWhetherTheEngineMoves) {
  Start();
  const auto load = [this] {
    grpc::ClientContext context;
    v1::GetLoadResponse response;
    EXPECT_TRUE(stub_->GetLoad(&context, {}, &response).ok());
    return response.load();
  };
  ASSERT_TRUE(Run(Ask({1, 2}, 4)).status.ok());
  EXPECT_TRUE(Eventually([&] { return load().stalled_seconds() == 0; })) << "there is nothing to do";
  EXPECT_GT(load().steps(), 0u);
}

TEST_F(WorkerServiceTest, RefusesWithReasons) {
  Start();
  const struct {
    Message message;
    const char* reason;
  } cases[] = {{Ask({}, 4), "INVALID_FIELD"},
               {Ask({1u << 30}, 4), "INVALID_FIELD"},
               {Ask({1}, 1 << 30), "CONTEXT_TOO_LONG"}};
  for (const auto& c : cases) {
    const Stream stream = Run(c.message);
    EXPECT_EQ(stream.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << stream.status.error_message();
    EXPECT_EQ(ReasonOf(FromGrpc(stream.status)), c.reason) << stream.status.error_message();
  }
}

TEST_F(WorkerServiceTest, ACancelledCallFreesItsPages) {
  Start();
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, Ask({1, 2, 3}, 200, 0));
  v1::WorkerServiceStreamGenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] {
    const EngineLoad load = worker_->engine().Load();
    return load.running == 0 && load.kv_pages_used == 0;
  }));
}

TEST_F(WorkerServiceTest, SendsModelInfoAndTokenizerFiles) {
  Start();
  grpc::ClientContext info_context;
  v1::WorkerServiceGetModelInfoResponse info;
  ASSERT_TRUE(stub_->GetModelInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.model().name(), "tiny-qwen2");
  EXPECT_EQ(info.model().revision().size(), 16u);
  EXPECT_GT(info.model().vocab_size(), 0u);
  EXPECT_GT(info.model().max_context_tokens(), 0u);
  EXPECT_EQ(info.model().tokenizer_fingerprint(), worker_->model().files.Fingerprint());
  EXPECT_EQ(info.model().numerics(), v1::NUMERICS_BITWISE);
  EXPECT_EQ(info.model().kv_cache(), "fp32");
  EXPECT_TRUE(info.model().has_chat_template());

  grpc::ClientContext files_context;
  auto reader = stub_->GetTokenizer(&files_context, {});
  TokenizerFiles files;
  v1::GetTokenizerResponse piece;
  while (reader->Read(&piece)) {
    EXPECT_LE(piece.content().size(), 1u << 20);
    files.contents[piece.name()] += piece.content();
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(files.contents, worker_->model().files.contents);
}

// Another format of the cache answers otherwise, so it is another revision.
TEST_F(WorkerServiceTest, HoldsKeysAndValuesAsAsked) {
  Start([](WorkerOptions& options) { options.model.kv = "int8"; });
  EXPECT_EQ(worker_->info().kv_cache(), "int8");
  const std::string directory = std::string(CLAMOR_TESTDATA) + "/tiny-qwen2";
  const LoadedModel& model = worker_->model();
  EXPECT_EQ(worker_->info().revision(), *ModelRevision(directory, HeldAs(model)));
  const LoadedModel wide = {.stored_as = model.stored_as, .kv_format = kernels::KvFormat::kF32};
  EXPECT_NE(worker_->info().revision(), *ModelRevision(directory, HeldAs(wide)));
  EXPECT_EQ(Run(Ask({1, 2, 3}, 8)).ids.size(), 8u);
}

TEST_F(WorkerServiceTest, DrainingRefusesNewRequestsAndFinishesOld) {
  Start();
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, Ask({1, 2, 3}, 64, 0));
  v1::WorkerServiceStreamGenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  grpc::ClientContext drain_context;
  v1::DrainResponse drain;
  ASSERT_TRUE(stub_->Drain(&drain_context, {}, &drain).ok());
  EXPECT_TRUE(drained_);
  const Stream refused = Run(Ask({1}, 4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(FromGrpc(refused.status)), "DRAINING");
  grpc::ClientContext load_context;
  v1::GetLoadResponse load;
  ASSERT_TRUE(stub_->GetLoad(&load_context, {}, &load).ok());
  EXPECT_TRUE(load.load().draining());
  int tokens = 0;
  while (reader->Read(&response)) tokens += response.delta().token_ids_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 64);
}

TEST_F(WorkerServiceTest, FinishedAnswersReachTheStoreUnlessTheRequestSaysNo) {
  FakeRetrieval retrieval;
  Start([&](WorkerOptions& options) { options.retrieval = {{retrieval.address(), ""}}; });
  Message kept = Ask({1, 2}, 8);
  Message private_message = Ask({3, 4}, 8);
  private_message.mutable_options()->set_store(false);
  const Stream stream = Run(kept);
  ASSERT_TRUE(stream.status.ok());
  ASSERT_TRUE(Run(private_message).status.ok());
  ASSERT_TRUE(worker_->corpus("default")->Flush(absl::Now() + absl::Seconds(10)));
  const auto documents = retrieval.documents();
  ASSERT_EQ(documents.size(), 1u);
  std::vector<uint32_t> expected = {1, 2};
  expected.insert(expected.end(), stream.ids.begin(), stream.ids.end());
  EXPECT_EQ(documents.begin()->second, expected);
  EXPECT_THAT(documents.begin()->first, testing::StartsWith("default/"));
}

TEST_F(WorkerServiceTest, DraftsAreAskedFor) {
  FakeRetrieval retrieval;
  Start([&](WorkerOptions& options) { options.retrieval = {{retrieval.address(), ""}}; });
  // The budget is fixed, for on a busy machine the automatic one may be 0; and a tiny model may be done
  // before its question is sent or the channel is up.
  for (int i = 0; i < 200 && retrieval.lookups().empty(); ++i) {
    ASSERT_TRUE(Run(Ask({1, 2}, 32, /*nodes=*/8)).status.ok());
  }
  EXPECT_FALSE(retrieval.lookups().empty());
}

}  // namespace
}  // namespace clamor
