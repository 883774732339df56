// The pace alone: what waits for a beat, when beats are, and how it ends. Whole streams: even_stream_test.cc.
#include "services/gateway/even_pace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "tests/services/gateway/gateway_fixture.h"

namespace clamor {
namespace {

using ::testing::ElementsAre;
using testing::Eventually;
using ::testing::HasSubstr;

v1::Started StartedOf(uint32_t choice) {
  v1::Started started;
  started.set_choice(choice);
  return started;
}

v1::Finished FinishedOf(uint32_t choice) {
  v1::Finished finished;
  finished.set_choice(choice);
  return finished;
}

v1::Delta DeltaOf(uint32_t choice, uint64_t index, uint64_t byte, const std::string& text) {
  v1::Delta delta;
  delta.set_choice(choice);
  delta.set_first_token_index(index);
  delta.set_first_text_byte(byte);
  for (const char c : text) delta.add_token_ids(static_cast<uint32_t>(c));
  delta.set_text(text);
  return delta;
}

// All that deltas say of one answer, one after the other.
struct Content {
  std::vector<uint32_t> ids, text_bytes;
  std::vector<int> sources;
  std::vector<float> logprobs;
  std::vector<uint64_t> trees;
  std::string text;

  void Add(const v1::Delta& delta) {
    ids.insert(ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    text_bytes.insert(text_bytes.end(), delta.text_bytes().begin(), delta.text_bytes().end());
    sources.insert(sources.end(), delta.sources().begin(), delta.sources().end());
    for (const auto& logprob : delta.logprobs()) logprobs.push_back(logprob.logprob());
    for (const auto& tree : delta.trees()) trees.push_back(tree.first_token_index());
    text += delta.text();
  }
  bool operator==(const Content&) const = default;
};

// What a listener hears.
class Heard : public GenerationListener {
 public:
  void OnStarted(v1::Started started) override { Note(absl::StrCat("S", started.choice())); }
  void OnDelta(v1::Delta delta) override {
    Note(absl::StrCat("D", delta.choice(), delta.text()));
    absl::MutexLock lock(&mu_);
    deltas_.push_back(std::move(delta));
  }
  void OnFinished(v1::Finished finished) override { Note(absl::StrCat("F", finished.choice())); }
  void OnEnded(const absl::Status& status) override { Note(status.ok() ? "OK" : "error"); }

  std::vector<std::string> events() const {
    absl::MutexLock lock(&mu_);
    return events_;
  }
  bool ended() const {
    absl::MutexLock lock(&mu_);
    return !events_.empty() && (events_.back() == "OK" || events_.back() == "error");
  }
  std::vector<v1::Delta> TakeDeltas() {
    absl::MutexLock lock(&mu_);
    return std::exchange(deltas_, {});
  }
  std::vector<std::string> TakeEvents() {
    absl::MutexLock lock(&mu_);
    return std::exchange(events_, {});
  }

 private:
  void Note(std::string event) {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
  }
  mutable absl::Mutex mu_;
  std::vector<std::string> events_;
  std::vector<v1::Delta> deltas_;
};

// The dull twin: an answer is all its deltas, and a beat one of them for each answer that is not over.
class Twin {
 public:
  Twin(uint32_t answers, const AnswerPlace& begin)
      : gathered_(answers, begin),
        came_(answers),
        went_(answers),
        state_(answers),
        places_(answers, begin),
        shown_(answers, begin) {}

  void Step(std::mt19937& random) {
    const uint32_t choice = static_cast<uint32_t>(random() % state_.size());
    if (random() % 4 == 0) return Beat();
    if (state_[choice] == kUnborn) {
      gathered_.Begin(choice);
      state_[choice] = kRuns;
    } else if (state_[choice] == kRuns && random() % 12 == 0) {
      gathered_.Add(FinishedOf(choice));
      state_[choice] = kFinished;
    } else if (state_[choice] == kRuns) {
      Come(choice, random);
    }
  }

  void Beat() {
    Heard heard;
    gathered_.PassOn(&heard);
    std::vector<std::string> order = heard.TakeEvents();
    std::vector<v1::Delta> deltas = heard.TakeDeltas();
    for (uint32_t i = 0; i < state_.size(); ++i) {
      std::vector<std::string> mine;
      for (const std::string& event : order) {
        if (event[1] == static_cast<char>('0' + i)) mine.push_back(event.substr(0, 1));
      }
      std::vector<std::string> expected;
      if (state_[i] == kRuns || state_[i] == kFinished) expected = {"D"};
      if (state_[i] == kFinished) expected.push_back("F");
      EXPECT_EQ(mine, expected);
      if (state_[i] == kFinished) state_[i] = kOver;
    }
    for (const v1::Delta& delta : deltas) {
      AnswerPlace& shown = shown_[delta.choice()];
      EXPECT_EQ(delta.first_token_index(), shown.tokens);
      EXPECT_EQ(delta.first_text_byte(), shown.text_bytes);
      shown.tokens += static_cast<uint64_t>(delta.token_ids_size());
      shown.text_bytes += delta.text().size();
      went_[delta.choice()].Add(delta);
    }
    EXPECT_EQ(went_, came_);
  }

 private:
  enum State { kUnborn, kRuns, kFinished, kOver };

  void Come(uint32_t choice, std::mt19937& random) {
    AnswerPlace& place = places_[choice];
    v1::Delta delta;
    delta.set_choice(choice);
    delta.set_first_token_index(place.tokens);
    delta.set_first_text_byte(place.text_bytes);
    for (uint32_t i = static_cast<uint32_t>(random() % 5); i > 0; --i) {
      delta.add_token_ids(static_cast<uint32_t>(random()));
      delta.add_sources(static_cast<v1::DraftSource>(random() % 4));
      delta.add_text_bytes(static_cast<uint32_t>(random() % 5));
      delta.add_logprobs()->set_logprob(static_cast<float>(random() % 100));
    }
    if (random() % 3 == 0) delta.add_trees()->set_first_token_index(place.tokens);
    delta.set_text(std::string(random() % 9, static_cast<char>('a' + random() % 26)));
    place.tokens += static_cast<uint64_t>(delta.token_ids_size());
    place.text_bytes += delta.text().size();
    came_[choice].Add(delta);
    gathered_.Add(std::move(delta));
  }

  GatheredAnswers gathered_;
  std::vector<Content> came_, went_;
  std::vector<State> state_;
  std::vector<AnswerPlace> places_, shown_;
};

TEST(GatheredAnswersTest, TogetherTheyAreWhatCame) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    Twin twin(1 + static_cast<uint32_t>(random() % 4), {random() % 3, random() % 3});
    for (int step = 0; step < 80; ++step) twin.Step(random);
    twin.Beat();
    twin.Beat();
  }
}

TEST(NextBeatTest, IsAMultipleThatIsNotPast) {
  const absl::Duration cadence = absl::Milliseconds(100);
  const absl::Time last = absl::FromUnixSeconds(1'000'000);
  EXPECT_EQ(NextBeat(last, cadence, last), last + cadence);
  for (int64_t late = -5000; late <= 5000; late += 7) {
    const absl::Time now = last + absl::Milliseconds(late), next = NextBeat(last, cadence, now);
    EXPECT_EQ((next - last) % cadence, absl::ZeroDuration()) << late;
    EXPECT_GT(next, now) << late;
    EXPECT_LE(next - now, late >= 0 ? cadence : 2 * cadence) << late;
  }
}

TEST(CheckEvennessTest, NamesWhatIsWrong) {
  const auto check = [](double cadence, size_t pad, size_t pending) {
    return CheckEvenness({absl::Seconds(cadence), pad}, pending).ToString();
  };
  EXPECT_EQ(check(0, 0, 0), "OK");
  EXPECT_EQ(check(0.1, 16384, 1 << 20), "OK");
  EXPECT_THAT(check(0.1, 0, 1 << 20), HasSubstr("--cadence needs --pad-chunks"));
  EXPECT_THAT(check(0, 16385, 1 << 30), HasSubstr("16385, must be at most 16384"));
  EXPECT_THAT(check(0, 512, 2048), HasSubstr("512, must be at most 32,"));
}

constexpr absl::Duration kNever = absl::Hours(1);
constexpr size_t kMuch = 1 << 20;

TEST(EvenPaceTest, NothingGoesOnBetweenBeats) {
  Heard heard;
  EvenPace pace({.cadence = kNever, .answers = 2, .most_bytes = kMuch}, &heard);
  pace.OnStarted(StartedOf(0));
  EXPECT_THAT(heard.events(), ElementsAre("S0"));  // at once
  pace.OnDelta(DeltaOf(0, 0, 0, "ab"));
  pace.OnStarted(StartedOf(1));
  pace.OnDelta(DeltaOf(0, 2, 2, "c"));
  pace.OnFinished(FinishedOf(0));
  EXPECT_THAT(heard.events(), ElementsAre("S0", "S1"));
  pace.OnEnded(absl::UnavailableError("no"));  // at once, after what waits
  EXPECT_THAT(heard.events(), ElementsAre("S0", "S1", "D0abc", "D1", "F0", "error"));
}

TEST(EvenPaceTest, WhatNeverStartedEndsAtOnce) {
  Heard heard;
  EvenPace pace({.cadence = kNever, .answers = 1, .most_bytes = kMuch}, &heard);
  pace.OnEnded(absl::UnavailableError("no"));
  EXPECT_THAT(heard.events(), ElementsAre("error"));
}

TEST(EvenPaceTest, MuchGoesOnBeforeItsTime) {
  Heard heard;
  EvenPace pace({.cadence = kNever, .answers = 1, .most_bytes = 500}, &heard);
  pace.OnStarted(StartedOf(0));
  size_t told = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    pace.OnDelta(DeltaOf(0, i, i, "x"));
    for (const v1::Delta& delta : heard.TakeDeltas()) {
      EXPECT_LE(delta.ByteSizeLong(), 510u);
      told += delta.text().size();
    }
  }
  EXPECT_GT(told, 700u);
  pace.OnEnded(absl::CancelledError(""));
  for (const v1::Delta& delta : heard.TakeDeltas()) told += delta.text().size();
  EXPECT_EQ(told, 1000u);
}

TEST(EvenPaceTest, SilenceSoundsLikeAnythingElse) {
  Heard heard;
  EvenPace pace({.cadence = absl::Milliseconds(1), .answers = 1, .most_bytes = kMuch, .begin = {3, 4}},
                &heard);
  pace.OnStarted(StartedOf(0));
  ASSERT_TRUE(Eventually([&] { return heard.events().size() > 4; }));
  pace.OnDelta(DeltaOf(0, 3, 4, "abc"));
  pace.OnFinished(FinishedOf(0));
  pace.OnEnded(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return heard.ended(); }));
  std::vector<std::string> events = heard.events();
  const size_t last = events.size() - 1;
  EXPECT_EQ(events[last], "OK");
  EXPECT_EQ(events[last - 1], "F0");
  std::string text;
  for (const v1::Delta& delta : heard.TakeDeltas()) {
    EXPECT_EQ(delta.first_token_index(), 3 + text.size());
    EXPECT_EQ(delta.first_text_byte(), 4 + text.size());
    text += delta.text();
  }
  EXPECT_EQ(text, "abc");
}

// Takes its pace away as soon as it has heard the end, as relays do, on whatever thread that is.
class Ending final : public Heard {
 public:
  void OnEnded(const absl::Status& status) override {
    Heard::OnEnded(status);
    pace.reset();
    gone.Notify();
  }
  std::unique_ptr<EvenPace> pace;
  absl::Notification gone;
};

TEST(EvenPaceTest, IsGoneWithItsEndWhateverAlarmsAreSet) {
  for (int i = 0; i < 400; ++i) {
    Ending heard;
    heard.pace = std::make_unique<EvenPace>(
        EvenPace::Options{.cadence = absl::Microseconds(i % 7 == 0 ? 1'000'000'000 : 50 * (i % 7)),
                          .answers = 1,
                          .most_bytes = kMuch},
        &heard);
    EvenPace* const pace = heard.pace.get();
    pace->OnStarted(StartedOf(0));
    for (uint64_t token = 0; token < static_cast<uint64_t>(i % 20); ++token)
      pace->OnDelta(DeltaOf(0, token, token, "x"));
    const bool well = i % 7 != 0 && i % 2 == 0;
    if (well) pace->OnFinished(FinishedOf(0));
    pace->OnEnded(well ? absl::OkStatus() : absl::CancelledError(""));
    ASSERT_TRUE(heard.gone.WaitForNotificationWithTimeout(absl::Seconds(20)));
    size_t text = 0;
    for (const v1::Delta& delta : heard.TakeDeltas()) text += delta.text().size();
    EXPECT_EQ(text, static_cast<size_t>(i % 20));
    EXPECT_EQ(heard.events().back(), well ? "OK" : "error");
  }
}

}  // namespace
}  // namespace clamor
