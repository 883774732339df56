// Every field of a request, at its limits and beyond, through a whole gateway: status, reason and named
// field.
#include "services/gateway/request_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;

// The field that a BadRequest among the details names; "(none)" without one.
std::string BadField(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const auto& any : details.details()) {
    google::rpc::BadRequest bad_request;
    if (any.UnpackTo(&bad_request) && bad_request.field_violations_size() == 1)
      return bad_request.field_violations(0).field();
  }
  return "(none)";
}

class RequestLimitsTest : public testing::GatewayTest {
 protected:
  void SetUp() override { StartWithWorker(); }

  grpc::Status Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    v1::GenerateResponse response;
    return stub_->Generate(&context, request, &response);
  }
  grpc::Status Chat(const v1::ChatRequest& request) {
    grpc::ClientContext context;
    v1::ChatResponse response;
    return stub_->Chat(&context, request, &response);
  }
};

TEST_F(RequestLimitsTest, GenerateNamesEveryWrongField) {
  struct Case {
    std::string field;
    std::function<void(v1::GenerateRequest&)> spoil;
  };
  const uint32_t vocab = worker_->info().vocab_size();
  auto sampling = [](v1::GenerateRequest& r) { return r.mutable_options()->mutable_sampling(); };
  auto speculation = [](v1::GenerateRequest& r) { return r.mutable_options()->mutable_speculation(); };
  const Case cases[] = {
      {"model", [](auto& r) { r.set_model(std::string(257, 'm')); }},
      {"prompt", [](auto& r) { r.clear_prompt(); }},
      {"prompt", [](auto& r) { r.set_text(""); }},
      {"prompt", [](auto& r) { r.mutable_token_ids(); }},
      {"token_ids.ids[1]",
       [&](auto& r) { r.mutable_token_ids()->add_ids(0), r.mutable_token_ids()->add_ids(vocab); }},
      {"token_ids.ids[0]", [](auto& r) { r.mutable_token_ids()->add_ids(0xffffffff); }},
      {"options.max_tokens", [](auto& r) { r.mutable_options()->set_max_tokens(0); }},
      {"options.max_tokens", [](auto& r) { r.mutable_options()->set_max_tokens(0xffffffff); }},
      {"options.sampling.temperature", [&](auto& r) { sampling(r)->set_temperature(-0.1f); }},
      {"options.sampling.temperature", [&](auto& r) { sampling(r)->set_temperature(100.5f); }},
      {"options.sampling.temperature", [&](auto& r) { sampling(r)->set_temperature(std::nanf("")); }},
      {"options.sampling.temperature", [&](auto& r) { sampling(r)->set_temperature(INFINITY); }},
      {"options.sampling.top_p", [&](auto& r) { sampling(r)->set_top_p(0); }},
      {"options.sampling.top_p", [&](auto& r) { sampling(r)->set_top_p(1.01f); }},
      {"options.sampling.top_p", [&](auto& r) { sampling(r)->set_top_p(std::nanf("")); }},
      {"options.sampling.min_p", [&](auto& r) { sampling(r)->set_min_p(-1); }},
      {"options.sampling.min_p", [&](auto& r) { sampling(r)->set_min_p(std::nanf("")); }},
      {"options.sampling.top_k", [&](auto& r) { sampling(r)->set_top_k(0x80000000u); }},
      {"options.sampling.repetition_penalty", [&](auto& r) { sampling(r)->set_repetition_penalty(0); }},
      {"options.sampling.repetition_penalty", [&](auto& r) { sampling(r)->set_repetition_penalty(101); }},
      {"options.sampling.repetition_penalty",
       [&](auto& r) { sampling(r)->set_repetition_penalty(std::nanf("")); }},
      {"options.sampling.presence_penalty", [&](auto& r) { sampling(r)->set_presence_penalty(2.1f); }},
      {"options.sampling.presence_penalty",
       [&](auto& r) { sampling(r)->set_presence_penalty(std::nanf("")); }},
      {"options.sampling.frequency_penalty", [&](auto& r) { sampling(r)->set_frequency_penalty(-2.1f); }},
      {"options.sampling.frequency_penalty", [&](auto& r) { sampling(r)->set_frequency_penalty(INFINITY); }},
      {"options.sampling.logit_bias",
       [&](auto& r) {
         for (uint32_t id = 0; id < 1025; ++id) (*sampling(r)->mutable_logit_bias())[id] = 1;
       }},
      {"options.sampling.logit_bias[3]", [&](auto& r) { (*sampling(r)->mutable_logit_bias())[3] = 100.5f; }},
      {"options.sampling.logit_bias[3]",
       [&](auto& r) { (*sampling(r)->mutable_logit_bias())[3] = std::nanf(""); }},
      {absl::StrCat("options.sampling.logit_bias[", vocab, "]"),
       [&](auto& r) { (*sampling(r)->mutable_logit_bias())[vocab] = 1; }},
      {"options.sampling.banned_token_ids",
       [&](auto& r) { sampling(r)->mutable_banned_token_ids()->Resize(1025, 1); }},
      {"options.sampling.banned_token_ids[1]",
       [&](auto& r) {
         sampling(r)->mutable_banned_token_ids()->Resize(1, 1), sampling(r)->add_banned_token_ids(vocab);
       }},
      {"options.stop_token_ids",
       [](auto& r) { r.mutable_options()->mutable_stop_token_ids()->Resize(65, 1); }},
      {"options.stop_token_ids[0]", [](auto& r) { r.mutable_options()->add_stop_token_ids(0xffffffff); }},
      {"options.min_tokens", [](auto& r) { r.mutable_options()->set_min_tokens(2); }},
      {"options.min_tokens",
       [](auto& r) {
         r.mutable_options()->clear_max_tokens(), r.mutable_options()->set_min_tokens(0x80000000u);
       }},
      {"options.top_logprobs", [](auto& r) { r.mutable_options()->set_top_logprobs(21); }},
      {"options.stop",
       [](auto& r) {
         for (int i = 0; i < 17; ++i) r.mutable_options()->add_stop("s");
       }},
      {"options.stop[1]",
       [](auto& r) { r.mutable_options()->add_stop("s"), r.mutable_options()->add_stop(""); }},
      {"options.stop[0]", [](auto& r) { r.mutable_options()->add_stop(std::string(257, 's')); }},
      {"options.json_schema", [](auto& r) { r.mutable_options()->set_json_schema(std::string(65536, ' ')); }},
      {"options.ignore_eos",
       [](auto& r) {
         r.mutable_options()->set_json_schema("{}"), r.mutable_options()->set_ignore_eos(true);
       }},
      {"options.n", [](auto& r) { r.mutable_options()->set_n(0); }},
      {"options.n", [](auto& r) { r.mutable_options()->set_n(17); }},
      {"options.speculation.nodes", [&](auto& r) { speculation(r)->set_nodes(-2); }},
      {"options.speculation.nodes", [&](auto& r) { speculation(r)->set_nodes(129); }},
      {"options.speculation.tree", [&](auto& r) { speculation(r)->set_tree(static_cast<v1::DraftTree>(9)); }},
      {"options.draft_scope",
       [](auto& r) { r.mutable_options()->set_draft_scope(static_cast<v1::DraftScope>(9)); }},
      {"options.priority", [](auto& r) { r.mutable_options()->set_priority(static_cast<v1::Priority>(9)); }},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.field);
    v1::GenerateRequest request;
    request.set_text("hello");
    request.mutable_options()->set_max_tokens(1);
    wrong.spoil(request);
    const grpc::Status status = Generate(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonOf(FromGrpc(status)), "INVALID_FIELD") << status.error_message();
    EXPECT_EQ(BadField(status), wrong.field);
    EXPECT_THAT(status.error_message(), HasSubstr(wrong.field));
  }
  EXPECT_EQ(worker_->streams(), 0);
}

TEST_F(RequestLimitsTest, ValuesAtTheLimitsPass) {
  v1::GenerateRequest request;
  request.set_text("hello");
  v1::GenerationOptions& options = *request.mutable_options();
  options.set_max_tokens(1);
  options.mutable_sampling()->set_temperature(100);
  options.mutable_sampling()->set_top_p(1e-6f);
  options.mutable_sampling()->set_min_p(1);
  options.mutable_sampling()->set_top_k(0x7fffffff);
  options.mutable_sampling()->set_seed(~uint64_t{0});
  for (int i = 0; i < 16; ++i) options.add_stop(std::string(256, 's'));
  options.mutable_sampling()->set_repetition_penalty(0.01f);
  options.mutable_sampling()->set_presence_penalty(-2);
  options.mutable_sampling()->set_frequency_penalty(2);
  const uint32_t last = worker_->info().vocab_size() - 1;
  (*options.mutable_sampling()->mutable_logit_bias())[last] = -100;
  options.mutable_sampling()->mutable_banned_token_ids()->Resize(1024, last);
  options.mutable_stop_token_ids()->Resize(64, last);
  options.set_min_tokens(1);
  options.set_top_logprobs(20);
  for (int nodes : {-1, 0, 128}) {
    options.mutable_speculation()->set_nodes(nodes);
    EXPECT_TRUE(Generate(request).ok());
  }
  EXPECT_EQ(worker_->last_request().options().SerializeAsString(), options.SerializeAsString());
}

TEST_F(RequestLimitsTest, ChatNamesEveryWrongField) {
  struct Case {
    const char* field;
    std::function<void(v1::ChatRequest&)> spoil;
  };
  const Case cases[] = {
      {"messages", [](auto& r) { r.clear_messages(); }},
      {"messages",
       [](auto& r) {
         for (int i = 0; i < 1024; ++i) *r.add_messages() = r.messages(0);
       }},
      {"messages[1].role", [](auto& r) { r.add_messages()->set_role("oracle"); }},
      {"messages[1].role", [](auto& r) { r.add_messages(); }},
      {"options.max_tokens", [](auto& r) { r.mutable_options()->set_max_tokens(0); }},
  };
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.field);
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    wrong.spoil(request);
    const grpc::Status status = Chat(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonOf(FromGrpc(status)), "INVALID_FIELD");
    EXPECT_EQ(BadField(status), wrong.field) << status.error_message();
  }
}

TEST_F(RequestLimitsTest, TokenizeAndDetokenizeNameEveryWrongField) {
  grpc::ClientContext contexts[5];
  v1::TokenizeResponse tokens;
  v1::DetokenizeResponse text;
  v1::TokenizeRequest tokenize;
  EXPECT_EQ(BadField(stub_->Tokenize(&contexts[0], tokenize, &tokens)), "input");
  tokenize.mutable_chat();
  EXPECT_EQ(BadField(stub_->Tokenize(&contexts[1], tokenize, &tokens)), "chat.messages");
  tokenize.set_text("x");
  tokenize.set_model(std::string(257, 'm'));
  EXPECT_EQ(BadField(stub_->Tokenize(&contexts[2], tokenize, &tokens)), "model");
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(0xffffffff);
  EXPECT_EQ(BadField(stub_->Detokenize(&contexts[3], detokenize, &text)), "token_ids[0]");
  detokenize.set_model(std::string(257, 'm'));
  EXPECT_EQ(BadField(stub_->Detokenize(&contexts[4], detokenize, &text)), "model");
}

TEST_F(RequestLimitsTest, ContextTooLongNamesBothNumbers) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Resize(static_cast<int>(testing::kContext) - 1, 1);
  request.mutable_options()->set_max_tokens(1);
  EXPECT_TRUE(Generate(request).ok());
  request.mutable_options()->set_max_tokens(2);
  grpc::Status status = Generate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(FromGrpc(status)), "CONTEXT_TOO_LONG");
  EXPECT_THAT(status.error_message(), HasSubstr("511"));
  EXPECT_THAT(status.error_message(), HasSubstr("512"));
  request.mutable_options()->clear_max_tokens();
  request.mutable_token_ids()->add_ids(1);
  EXPECT_EQ(ReasonOf(FromGrpc(Generate(request))), "CONTEXT_TOO_LONG");
}

TEST_F(RequestLimitsTest, TenantIsCheckedAndPassedOn) {
  EXPECT_TRUE(Stream(IdsRequest({1}, 1)).status.ok());
  EXPECT_EQ(worker_->last_request().tenant(), "default");
  EXPECT_TRUE(Stream(IdsRequest({1}, 1), "acme.eu-1_x").status.ok());
  EXPECT_EQ(worker_->last_request().tenant(), "acme.eu-1_x");
  for (const std::string& tenant : {std::string("a/b"), std::string("a b"), std::string(129, 'a')}) {
    EXPECT_EQ(ReasonOf(Stream(IdsRequest({1}, 1), tenant).status), "INVALID_FIELD") << tenant;
  }
}

TEST_F(RequestLimitsTest, UnknownModel) {
  v1::GenerateRequest request;
  request.set_text("hello");
  request.set_model("huge");
  const grpc::Status status = Generate(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonOf(FromGrpc(status)), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace clamor
