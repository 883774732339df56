// Every field that an answer is made of shows in the checksum; order and number of events do as well.
#include "services/content_check.h"

#include <functional>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

using Event = v1::WorkerServiceStreamGenerateResponse;

Event StartedEvent() {
  Event event;
  event.mutable_started()->set_request_id("id");
  event.mutable_started()->set_model_revision("revision");
  return event;
}

Event DeltaEvent() {
  Event event;
  v1::Delta& delta = *event.mutable_delta();
  delta.set_first_token_index(3);
  delta.set_first_text_byte(9);
  delta.add_token_ids(5);
  delta.add_token_ids(6);
  delta.add_sources(v1::DRAFT_SOURCE_UNSPECIFIED);
  delta.set_text("a text of some length");
  delta.add_logprobs()->set_logprob(-1);
  delta.mutable_logprobs(0)->add_top()->set_token_id(5);
  return event;
}

Event FinishedEvent() {
  Event event;
  event.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
  event.mutable_finished()->set_matched_stop("stop");
  event.mutable_finished()->mutable_usage()->set_completion_tokens(2);
  return event;
}

uint64_t SumOf(const std::vector<Event>& events) {
  ContentCheck check;
  uint64_t sum = 0;
  for (const Event& event : events) sum = check.Add(event);
  return sum;
}

TEST(ContentCheckTest, EveryFieldShows) {
  const std::vector<std::function<void(Event&)>> changes = {
      [](Event& e) { e.mutable_started()->set_request_id("iD"); },
      [](Event& e) { e.mutable_started()->set_seed(1); },
      [](Event& e) { e.mutable_started()->set_model("m"); },
      [](Event& e) { e.mutable_started()->set_model_revision("revisiom"); },
      [](Event& e) { e.mutable_started()->set_prompt_tokens(1); },
      [](Event& e) { e.mutable_started()->set_cached_tokens(1); },
      [](Event& e) { e.mutable_started()->set_max_tokens(1); },
      [](Event& e) { e.mutable_delta()->set_first_token_index(4); },
      [](Event& e) { e.mutable_delta()->set_first_text_byte(8); },
      [](Event& e) { e.mutable_delta()->set_token_ids(1, 7); },
      [](Event& e) { e.mutable_delta()->add_token_ids(0); },
      [](Event& e) { e.mutable_delta()->mutable_text()->back() = 'i'; },
      [](Event& e) { e.mutable_delta()->mutable_text()->push_back('\0'); },
      [](Event& e) { e.mutable_delta()->set_sources(0, v1::DRAFT_SOURCE_STORE); },
      [](Event& e) { e.mutable_delta()->mutable_logprobs(0)->set_logprob(-1.0000001f); },
      [](Event& e) { e.mutable_delta()->mutable_logprobs(0)->mutable_top(0)->set_token_id(4); },
      [](Event& e) { e.mutable_delta()->mutable_logprobs(0)->mutable_top(0)->set_logprob(1); },
      [](Event& e) { e.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH); },
      [](Event& e) { e.mutable_finished()->set_matched_stop("stpo"); },
      [](Event& e) { e.mutable_finished()->mutable_usage()->set_prompt_tokens(1); },
      [](Event& e) { e.mutable_finished()->mutable_usage()->set_completion_tokens(3); },
      [](Event& e) { e.mutable_finished()->mutable_usage()->set_cached_tokens(1); }};
  const std::vector<Event> whole = {StartedEvent(), DeltaEvent(), FinishedEvent()};
  std::set<uint64_t> sums = {SumOf(whole)};
  for (size_t i = 0; i < changes.size(); ++i) {
    std::vector<Event> changed = whole;
    changes[i](changed[i < 7 ? 0 : i < 17 ? 1 : 2]);
    EXPECT_TRUE(sums.insert(SumOf(changed)).second) << "change " << i << " does not show";
  }
}

TEST(ContentCheckTest, OrderAndNumberShow) {
  const Event a = DeltaEvent();
  Event b = a;
  b.mutable_delta()->set_token_ids(0, 9);
  std::set<uint64_t> sums;
  for (const std::vector<Event>& events :
       std::vector<std::vector<Event>>{{a}, {b}, {a, b}, {b, a}, {a, a}, {a, b, b}})
    EXPECT_TRUE(sums.insert(SumOf(events)).second);
}

TEST(ContentCheckTest, TimingsAndTracesDoNot) {
  Event delta = DeltaEvent(), finished = FinishedEvent();
  const uint64_t sum = SumOf({delta, finished});
  delta.mutable_delta()->add_trees();
  finished.mutable_finished()->mutable_timings()->set_decode_seconds(1);
  EXPECT_EQ(SumOf({delta, finished}), sum);
}

}  // namespace
}  // namespace clamor
