#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "services/worker/engine.h"
#include "services/worker/knowledge_files.h"
#include "services/worker/knowledge_pool.h"
#include "tests/services/worker/engine_fixture.h"

namespace clamor {
namespace {

namespace fs = std::filesystem;

// A folder, and what was complained of about its files.
class Kept {
 public:
  Kept() {
    std::string pattern = (fs::temp_directory_path() / "knowledge_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  ~Kept() { fs::remove_all(root_); }

  std::unique_ptr<KnowledgeFiles> Open(const std::string& fingerprint = "f",
                                       absl::Duration interval = absl::Hours(1)) {
    return std::make_unique<KnowledgeFiles>(KnowledgeFilesOptions{.folder = folder(),
                                                                  .tokenizer_fingerprint = fingerprint,
                                                                  .vocab_size = kVocab,
                                                                  .interval = interval},
                                            [this](const absl::Status& trouble) {
                                              absl::MutexLock lock(&mu_);
                                              warnings_.push_back(trouble.ToString());
                                            });
  }
  std::string folder() const { return root_ + "/state/drafting"; }
  std::string PathOf(const std::string& tenant) const {
    return absl::StrCat(folder(), "/", tenant, ".knowledge");
  }
  std::vector<std::string> warnings() {
    absl::MutexLock lock(&mu_);
    return warnings_;
  }

 private:
  std::string root_;
  absl::Mutex mu_;
  std::vector<std::string> warnings_ ABSL_GUARDED_BY(mu_);
};

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void WriteAll(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

void Teach(DraftKnowledge& knowledge, int32_t token) {
  knowledge.adjacency.Observe(token, std::vector<int32_t>{token + 1}, std::vector<float>{-1});
}
std::shared_ptr<DraftKnowledge> Taught(int32_t token) {
  auto knowledge = std::make_shared<DraftKnowledge>();
  Teach(*knowledge, token);
  return knowledge;
}
bool Knows(const DraftKnowledge* knowledge, int32_t token) {
  return knowledge != nullptr && knowledge->adjacency.Find(token) != nullptr;
}
absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

class EngineKnowledgeTest : public EngineTest {
 protected:
  struct Answers {
    std::vector<std::vector<int32_t>> ids;
    int64_t tokens = 0, forwards = 0;
    double tokens_per_forward() const { return static_cast<double>(tokens) / static_cast<double>(forwards); }
  };
  // The goldens, asked by `tenant` one after the other, some times over, of an engine that stops thereafter:
  // the answers of the last time.
  Answers Ask(KnowledgeFiles* files, const std::string& tenant, int times = 1) {
    constexpr int kGoldens = 5;
    const auto engine = MakeEngine(model_, {.default_nodes = 16, .knowledge = files});
    Answers answers;
    for (int number = 0; number < times * kGoldens; ++number) {
      if (number % kGoldens == 0) answers = {};
      Request request = Golden(number % kGoldens);
      request.tenant = tenant;
      RecordingSink sink;
      Submit(*engine, request, sink);
      StepUntilIdle(*engine);
      answers.tokens += static_cast<int64_t>(sink.ids.size());
      answers.forwards += sink.finished->stats.forwards;
      answers.ids.push_back(sink.ids);
    }
    engine->Run(/*stop=*/true);
    return answers;
  }
};

TEST_F(EngineKnowledgeTest, ANewEngineStartsWhereTheLastOneStopped) {
  Kept kept;
  const Answers nowhere = Ask(nullptr, "a");
  const Answers cold = Ask(kept.Open().get(), "a");
  const Answers warm = Ask(kept.Open().get(), "a");
  const Answers other = Ask(kept.Open().get(), "b");
  const Answers foreign = Ask(kept.Open("another tokenizer").get(), "a");
  std::printf("tokens per forward: %.3f cold, %.3f after a restart, %.3f of another tenant\n",
              cold.tokens_per_forward(), warm.tokens_per_forward(), other.tokens_per_forward());
  EXPECT_EQ(cold.forwards, nowhere.forwards);
  EXPECT_EQ(warm.forwards, Ask(nullptr, "a", 2).forwards) << "as an engine that went on";
  EXPECT_NE(warm.forwards, cold.forwards) << "what was learned shows in nothing";
  EXPECT_EQ(other.forwards, cold.forwards) << "tenants learn apart";
  EXPECT_EQ(foreign.forwards, cold.forwards) << "its ids mean other tokens";
  for (const Answers* answers : {&cold, &warm, &other, &foreign}) EXPECT_EQ(answers->ids, nowhere.ids);
  ASSERT_EQ(kept.warnings().size(), 1u);
  EXPECT_TRUE(absl::StrContains(kept.warnings()[0], kept.PathOf("a") + ": tokenizer")) << kept.warnings()[0];
}

TEST_F(EngineKnowledgeTest, DamagedFilesMeanAColdStartAndAreReplaced) {
  Kept kept;
  const Answers cold = Ask(kept.Open().get(), "a");
  const std::string good = ReadAll(kept.PathOf("a"));
  ASSERT_GT(good.size(), 1000u);
  std::string flipped = good;
  flipped[500] ^= 1;
  const std::string bad[] = {"",      "x",         good.substr(0, good.size() / 2),
                             flipped, good + good, std::string(10 << 20, 'x')};
  for (const std::string& content : bad) {
    const size_t warned = kept.warnings().size();
    WriteAll(kept.PathOf("a"), content);
    const Answers again = Ask(kept.Open().get(), "a");
    EXPECT_EQ(again.ids, cold.ids);
    EXPECT_EQ(again.forwards, cold.forwards) << content.size();
    EXPECT_EQ(kept.warnings().size(), warned + 1) << content.size();
    EXPECT_EQ(ReadAll(kept.PathOf("a")).size(), good.size());
  }
}

TEST_F(EngineKnowledgeTest, ADiskThatTakesNothingCostsNothingElse) {
  Kept kept;
  fs::create_directories(fs::path(kept.folder()).parent_path());
  WriteAll(kept.folder(), "a file where the folder should be");
  const Answers answers = Ask(kept.Open().get(), "a");
  EXPECT_EQ(answers.ids, Ask(nullptr, "a").ids);
  EXPECT_GE(kept.warnings().size(), 2u) << "of the folder and of the file";
}

TEST_F(EngineKnowledgeTest, IsKeptWhileItRuns) {
  Kept kept;
  const auto files = kept.Open("f", absl::Milliseconds(1));
  const auto engine = MakeEngine(model_, {.default_nodes = 16, .knowledge = files.get()});
  std::atomic<bool> stop = false;
  std::thread runner([&] { engine->Run(stop); });
  const absl::Time deadline = Soon();
  while (!fs::exists(kept.PathOf("a")) && absl::Now() < deadline) {
    AwaitedSink sink;
    Request request = Golden(1);
    request.tenant = "a";
    Submit(*engine, request, sink);
    sink.done.WaitForNotification();
    EXPECT_EQ(sink.ids, goldens_[1].greedy_ids);
  }
  EXPECT_TRUE(fs::exists(kept.PathOf("a"))) << "before the engine stops";
  stop = true;
  engine->WakeUp();
  runner.join();
  EXPECT_TRUE(files->Idle());
}

TEST(KnowledgeFiles, ReadsWhatWasWrittenLast) {
  Kept kept;
  {
    const auto files = kept.Open();
    for (int32_t token = 0; token < 20; ++token) {
      ASSERT_TRUE(files->Write("a", Taught(token), Soon()));
      EXPECT_TRUE(Knows(files->Read("a").get(), token)) << "also while it waits for the disk";
    }
    EXPECT_TRUE(files->Flush(Soon()));
    EXPECT_TRUE(files->Idle());
  }
  EXPECT_TRUE(Knows(kept.Open()->Read("a").get(), 19));
  EXPECT_EQ(kept.Open()->Read("b"), nullptr);
  EXPECT_TRUE(kept.warnings().empty()) << kept.warnings()[0];
}

TEST(KnowledgeFiles, NamesStayInTheFolder) {
  Kept kept;
  const auto files = kept.Open();
  for (const std::string& name : {std::string("."), std::string(".."), std::string("a.knowledge"),
                                  std::string("A"), std::string(), std::string(128, 'x')}) {
    ASSERT_TRUE(files->Write(name, Taught(1), Soon())) << name;
    ASSERT_TRUE(files->Flush(Soon()));
    EXPECT_TRUE(Knows(files->Read(name).get(), 1)) << name;
    EXPECT_TRUE(fs::is_regular_file(kept.PathOf(name))) << name;
  }
  for (const std::string& name : {std::string("../a"), std::string("/etc/x"), std::string("a b"),
                                  std::string("a\0b", 3), std::string(129, 'x')}) {
    EXPECT_FALSE(files->Write(name, Taught(1), Soon())) << name;
    EXPECT_EQ(files->Read(name), nullptr) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(kept.folder()), fs::directory_iterator()), 6);
  fs::create_directory(kept.PathOf("folder"));
  EXPECT_EQ(files->Read("folder"), nullptr);
  EXPECT_EQ(kept.warnings().size(), 1u);
}

TEST(KnowledgeFiles, TheLongestUnwrittenGo) {
  Kept kept;
  const auto files = kept.Open();
  const auto now = fs::file_time_type::clock::now();
  for (size_t i = 0; i < KnowledgeFiles::kFiles; ++i) {
    const std::string path = i == 7 ? kept.PathOf("7") + ".partial" : kept.PathOf(std::to_string(i));
    WriteAll(path, "x");
    fs::last_write_time(path, now - std::chrono::hours(i == 7 ? 2000 : 1000 - i));
  }
  WriteAll(kept.folder() + "/notes.txt", "not ours");
  fs::last_write_time(kept.folder() + "/notes.txt", now - std::chrono::hours(9999));
  const auto write = [&](const std::string& tenant) {
    ASSERT_TRUE(files->Write(tenant, Taught(1), Soon()));
    ASSERT_TRUE(files->Flush(Soon()));
  };
  const auto count = [&] {
    return std::distance(fs::directory_iterator(kept.folder()), fs::directory_iterator());
  };
  write("new");
  EXPECT_FALSE(fs::exists(kept.PathOf("7") + ".partial")) << "a killed writer's";
  write("newer");
  EXPECT_FALSE(fs::exists(kept.PathOf("0")));
  write("new");
  EXPECT_TRUE(fs::exists(kept.PathOf("1"))) << "no file came";
  EXPECT_TRUE(fs::exists(kept.folder() + "/notes.txt"));
  EXPECT_EQ(count(), static_cast<int64_t>(KnowledgeFiles::kFiles) + 1);
}

TEST(KnowledgePool, ATenantWhoWasForgottenComesBackAsItWas) {
  Kept kept;
  const auto files = kept.Open();
  KnowledgePool pool(files.get());
  Teach(*pool.Get("gone"), 3);
  const auto running = pool.Get("running");
  Teach(*running, 4);
  for (size_t i = 0; i < KnowledgePool::kTenants; ++i) {
    pool.Get(std::to_string(i));
    ASSERT_TRUE(files->Flush(Soon()));
  }
  EXPECT_EQ(pool.Get("gone")->adjacency.size(), 1u);
  EXPECT_TRUE(Knows(pool.Get("gone").get(), 3));
  EXPECT_TRUE(Knows(pool.Get("running").get(), 4));
  EXPECT_NE(pool.Get("running"), running);
}

TEST(KnowledgePool, SavesWhatIsDueAndNothingTwice) {
  Kept kept;
  const auto files = kept.Open();
  KnowledgePool pool(files.get());
  EXPECT_EQ(pool.SaveDue(absl::Now()), absl::InfiniteFuture());
  auto running = pool.Get("a");
  const absl::Time due = pool.SaveDue(absl::Now());
  EXPECT_GT(due, absl::Now() + absl::Minutes(59));
  EXPECT_TRUE(files->Idle());

  Teach(*running, 1);
  pool.SaveDue(due);
  ASSERT_TRUE(files->Flush(Soon()));
  EXPECT_TRUE(Knows(files->Read("a").get(), 1));
  EXPECT_EQ(pool.SaveDue(due), due + absl::Hours(1)) << "its sequence goes on learning";
  Teach(*running, 2);
  running.reset();
  pool.SaveDue(due + absl::Hours(1));
  ASSERT_TRUE(files->Flush(Soon()));
  EXPECT_TRUE(Knows(files->Read("a").get(), 2));
  EXPECT_EQ(pool.SaveDue(absl::Now()), absl::InfiniteFuture()) << "nothing new to keep";

  fs::remove(kept.PathOf("a"));
  pool.SaveAll(Soon());
  EXPECT_FALSE(fs::exists(kept.PathOf("a"))) << "it was saved already";
  Teach(*pool.Get("a"), 3);
  pool.SaveAll(Soon());
  EXPECT_TRUE(Knows(kept.Open()->Read("a").get(), 3));
}

using ForgetTest = EngineTest;

TEST_F(ForgetTest, ATenantLeavesNothingBehind) {
  const auto engine = MakeEngine(model_, {.max_sequences = 1, .default_nodes = 12}, &tokenizer_);
  const auto ask = [&](const std::string& tenant) {
    Request request = Golden(0);
    const std::vector<int32_t> once = request.prompt_ids;
    while (request.prompt_ids.size() < 40) {  // more than a page
      request.prompt_ids.insert(request.prompt_ids.end(), once.begin(), once.end());
    }
    request.tenant = tenant;
    RecordingSink sink;
    Submit(*engine, std::move(request), sink);
    StepUntilIdle(*engine);
    return sink;
  };
  const auto forget = [&](const std::string& tenant) {
    bool done = false;
    engine->ForgetTenant(tenant, [&done] { done = true; });
    StepUntilIdle(*engine);
    return done;
  };
  const auto first = ask("a"), other = ask("b"), second = ask("a");
  EXPECT_EQ(other.finished->stats.forwards, first.finished->stats.forwards);
  EXPECT_GT(second.cached_tokens, 0);
  EXPECT_LT(second.finished->stats.forwards, first.finished->stats.forwards);  // it has learned
  ASSERT_TRUE(forget("a"));
  const auto again = ask("a");
  EXPECT_EQ(again.cached_tokens, 0);
  EXPECT_EQ(again.finished->stats.forwards, first.finished->stats.forwards);
  EXPECT_EQ(again.ids, first.ids);
  EXPECT_GT(ask("b").cached_tokens, 0);

  // Requests under way and waiting end.
  Request endless = Golden(1, 100);
  endless.tenant = "a";
  RecordingSink running, waiting;
  Submit(*engine, endless, running);
  Submit(*engine, endless, waiting);
  for (int i = 0; i < 3; ++i) engine->Step();
  ASSERT_TRUE(forget("a"));
  ASSERT_TRUE(running.finished.has_value() && waiting.finished.has_value());
  EXPECT_EQ(running.finished->reason, FinishReason::kTenantDeleted);
  EXPECT_EQ(waiting.finished->reason, FinishReason::kTenantDeleted);
  EXPECT_LT(running.ids.size(), 100u);
}

TEST_F(ForgetTest, FilesGo) {
  Kept kept;
  const auto files = kept.Open();
  const auto knowledge = std::make_shared<const DraftKnowledge>();
  for (const char* tenant : {"a", "b"}) files->Write(tenant, knowledge, absl::InfiniteFuture());
  ASSERT_TRUE(files->Flush(absl::Now() + absl::Seconds(10)));
  ASSERT_TRUE(fs::exists(kept.PathOf("a")));
  files->Write("a", knowledge, absl::InfiniteFuture());
  files->Remove("a");
  files->Remove("nobody");
  ASSERT_TRUE(files->Flush(absl::Now() + absl::Seconds(10)));
  EXPECT_FALSE(fs::exists(kept.PathOf("a")));
  EXPECT_EQ(files->Read("a"), nullptr);
  EXPECT_NE(files->Read("b"), nullptr);
}

}  // namespace
}  // namespace clamor
