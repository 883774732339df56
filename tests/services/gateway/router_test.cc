#include "services/gateway/router.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace clamor {
namespace {

class RouterTest : public ::testing::Test {
 protected:
  static std::shared_ptr<const ServedModel> Model(const std::string& name,
                                                  const std::string& revision = "r1") {
    static const TokenizerFiles files = *TokenizerFiles::Read(CLAMOR_TESTDATA "/tiny-qwen2");
    v1::ModelInfo info;
    info.set_name(name);
    info.set_revision(revision);
    info.set_tokenizer_fingerprint(files.Fingerprint());
    return *ServedModel::Load(info, files);
  }
  static WorkerSnapshot Worker(const std::shared_ptr<const ServedModel>& model, uint32_t running, int streams,
                               int streams_at_poll, uint32_t slots = 1) {
    WorkerSnapshot worker;
    worker.state = v1::WORKER_STATE_READY;
    worker.model = model;
    worker.load.set_running(running);
    worker.load.set_max_running(slots);
    worker.streams = streams;
    worker.streams_at_poll = streams_at_poll;
    return worker;
  }
  const std::shared_ptr<const ServedModel> a_ = Model("a"), b_ = Model("b");
};

TEST_F(RouterTest, LoadCountsOwnStreamsOnceAndAtOnce) {
  EXPECT_EQ(RelativeLoad(Worker(a_, 5, 3, 2)), 6);  // 3 by others when polled, 3 here now
  EXPECT_EQ(RelativeLoad(Worker(a_, 0, 4, 0)), 4);  // not yet polled
  EXPECT_EQ(RelativeLoad(Worker(a_, 1, 0, 3)), 0);  // ours are gone since
  EXPECT_EQ(RelativeLoad(Worker(a_, 8, 0, 0, 16)), 0.5);
  EXPECT_EQ(RelativeLoad(Worker(a_, 8, 0, 0, 0)), 8);
}

TEST_F(RouterTest, TakesTheLeastLoadedReadyWorkerOfTheModel) {
  std::vector<WorkerSnapshot> workers = {Worker(a_, 3, 0, 0), Worker(a_, 1, 0, 0), Worker(b_, 0, 0, 0),
                                         Worker(a_, 2, 0, 0)};
  EXPECT_EQ(Route(workers, "a", 0), 1u);
  EXPECT_EQ(Route(workers, "b", 0), 2u);
  EXPECT_EQ(Route(workers, "c", 0), std::nullopt);
  workers[1].state = v1::WORKER_STATE_DRAINING;
  EXPECT_EQ(Route(workers, "a", 0), 3u);
  workers[3].state = v1::WORKER_STATE_DOWN;
  EXPECT_EQ(Route(workers, "a", 0), 0u);
  workers[0].model = nullptr;
  EXPECT_EQ(Route(workers, "a", 0), std::nullopt);
  EXPECT_EQ(Route({}, "a", 0), std::nullopt);
}

TEST_F(RouterTest, EqualsTakeTurns) {
  const std::vector<WorkerSnapshot> workers = {Worker(a_, 1, 0, 0), Worker(a_, 0, 0, 0), Worker(a_, 0, 0, 0)};
  std::multiset<size_t> taken;
  for (uint64_t turn = 0; turn < 10; ++turn) taken.insert(*Route(workers, "a", turn));
  EXPECT_EQ(taken.count(1), 5u);
  EXPECT_EQ(taken.count(2), 5u);
}

TEST_F(RouterTest, OnlyWhoAnswersAlikeGoesOn) {
  std::vector<WorkerSnapshot> workers = {Worker(Model("a", "r2"), 0, 0, 0), Worker(b_, 0, 0, 0),
                                         Worker(a_, 9, 0, 0), Worker(a_, 3, 0, 0)};
  workers[2].address = "x";
  workers[3].address = "y";
  EXPECT_EQ(RouteSuccessor(workers, a_->info(), {}, 0), 3u);
  const std::vector<std::string> excluded = {"y"};
  EXPECT_EQ(RouteSuccessor(workers, a_->info(), excluded, 0), 2u);
  workers[2].state = v1::WORKER_STATE_DRAINING;
  EXPECT_EQ(RouteSuccessor(workers, a_->info(), excluded, 0), std::nullopt);
}

TEST_F(RouterTest, AlikeIsWhatShowsInAnswers) {
  v1::ModelInfo other = a_->info();
  other.set_has_chat_template(!other.has_chat_template());
  EXPECT_TRUE(AnswerAlike(a_->info(), other));
  const std::vector<std::function<void(v1::ModelInfo&)>> changes = {
      [](v1::ModelInfo& m) { m.set_name("b"); }, [](v1::ModelInfo& m) { m.set_revision("r2"); },
      [](v1::ModelInfo& m) { m.set_numerics(v1::NUMERICS_BITWISE); },
      [](v1::ModelInfo& m) { m.set_tokenizer_fingerprint("x"); },
      [](v1::ModelInfo& m) { m.set_max_context_tokens(7); }};
  for (const auto& change : changes) {
    other = a_->info();
    change(other);
    EXPECT_FALSE(AnswerAlike(a_->info(), other)) << other.ShortDebugString();
  }
}

TEST_F(RouterTest, RequestsOfOneAffinityGoTogether) {
  std::vector<WorkerSnapshot> workers;
  for (int i = 0; i < 4; ++i) {
    workers.push_back(Worker(a_, 0, 0, 0, 10));
    workers.back().address = "w" + std::to_string(i) + ":7710";
  }
  std::vector<int> at(4);
  for (int i = 0; i < 400; ++i) {
    const std::string affinity = "tenant/" + std::to_string(i);
    const size_t home = *Route(workers, "a", 0, affinity);
    ++at[home];
    EXPECT_EQ(Route(workers, "a", 1, affinity), home) << "whosever turn it is";
    std::vector<WorkerSnapshot> without = workers;
    without[(home + 1) % 4].state = v1::WORKER_STATE_DOWN;
    EXPECT_EQ(Route(without, "a", 0, affinity), home) << "whoever else is lost";
    without[home].streams = 4;  // busier, but not by as much as a prefix is worth
    EXPECT_EQ(Route(without, "a", 0, affinity), home);
    without[home].streams = 5;
    EXPECT_NE(Route(without, "a", 0, affinity), home);
    without[home].streams = 0;
    without[home].state = v1::WORKER_STATE_DRAINING;
    EXPECT_NE(Route(without, "a", 0, affinity), home);
  }
  for (const int sessions : at) EXPECT_GT(sessions, 60) << "they are spread";
  EXPECT_EQ(Route(workers, "b", 0, "x"), std::nullopt);
}

}  // namespace
}  // namespace clamor
