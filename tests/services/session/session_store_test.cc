// The contract of SessionStore, on every implementation: in a folder, and in a real redis-server.
#include "services/session/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "services/rpc_error.h"
#include "tests/services/session/redis_server.h"

namespace clamor {
namespace {

using testing::OnDisk;
using testing::RedisServer;
using testing::Soon;
using testing::TempFolder;

enum class Kind { kFolder, kRedis };

class SessionStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kRedis) {
      if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
      redis_ = std::make_unique<RedisServer>();
    }
    Open();
  }

  // As another gateway would, or this one after a restart.
  void Open() {
    store_.reset();
    options_.location = redis_ != nullptr ? redis_->url() : folder_ / "store";
    auto store = OpenSessionStore(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  // Whatever of it is on disk.
  bool Stored(const std::string& text) const {
    return OnDisk(redis_ != nullptr ? redis_->folder().path() : folder_.path(), text);
  }

  static v1::Session New(const std::string& name, absl::Duration ttl = absl::Hours(1),
                         const std::string& uid = "u") {
    v1::Session session;
    session.set_name(name);
    session.set_uid(uid);
    *session.mutable_ttl() = ToDuration(absl::ToInt64Milliseconds(ttl));
    return session;
  }
  static v1::Turn Said(const std::string& text) {
    v1::Turn turn;
    turn.add_messages()->set_role("user");
    turn.mutable_messages(0)->set_content(text);
    return turn;
  }
  static v1::Turn Answered(const std::string& id, const std::string& text) {
    v1::Turn turn = Said(text);
    turn.mutable_answer()->set_request_id(id);
    turn.mutable_answer()->set_text(text);
    turn.mutable_answer()->add_token_ids(7);
    return turn;
  }
  static v1::StoredStream Stream(const std::string& tenant, const std::string& id, uint64_t seed) {
    v1::StoredStream stream;
    stream.mutable_request()->set_tenant(tenant);
    stream.mutable_request()->set_request_id(id);
    stream.mutable_request()->mutable_options()->mutable_sampling()->set_seed(seed);
    return stream;
  }
  v1::Session Create(const std::string& tenant, const std::string& name) {
    auto created = store_->Create(tenant, New(name), {});
    EXPECT_TRUE(created.ok()) << created.status();
    return created.value_or(v1::Session());
  }
  std::vector<std::string> Names(const std::string& tenant, const std::string& after, uint32_t count) {
    std::vector<std::string> names;
    auto sessions = store_->List(tenant, after, count);
    EXPECT_TRUE(sessions.ok()) << sessions.status();
    for (const v1::Session& session : sessions.value_or(std::vector<v1::Session>()))
      names.push_back(session.name());
    return names;
  }

  const TempFolder folder_;
  std::unique_ptr<RedisServer> redis_;
  StoreOptions options_;
  std::unique_ptr<SessionStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Stores, SessionStoreTest, ::testing::Values(Kind::kFolder, Kind::kRedis),
                         [](const auto& info) { return info.param == Kind::kFolder ? "Folder" : "Redis"; });

TEST_P(SessionStoreTest, SessionsHaveTurns) {
  const int64_t before = absl::ToUnixMillis(absl::Now());
  v1::Session session = *store_->Create("a", New("s"), {});
  EXPECT_EQ(session.name(), "s");
  EXPECT_EQ(session.uid(), "u");
  EXPECT_EQ(session.version(), 0u);
  EXPECT_NEAR(Milliseconds(session.create_time()), before, 10'000);
  EXPECT_EQ(Milliseconds(session.expire_time()) - Milliseconds(session.create_time()), 3'600'000);
  EXPECT_EQ(Milliseconds(session.ttl()), 3'600'000);

  const std::string odd("a:b\0c\n\xc3\xa9", 8);
  session = *store_->Append("a", session, Answered("r1", odd));
  EXPECT_EQ(session.version(), 1u);
  EXPECT_EQ(session.messages(), 2u);
  EXPECT_GT(session.bytes(), 2 * odd.size());
  session = *store_->Append("a", session, Answered("r2", "second"));
  EXPECT_EQ(session.version(), 2u);
  EXPECT_EQ(session.messages(), 4u);
  EXPECT_EQ(store_->Find("a", "s")->SerializeAsString(), session.SerializeAsString());

  const Conversation all = *store_->Read("a", "s", 0, 1000);
  EXPECT_EQ(all.session.SerializeAsString(), session.SerializeAsString());
  ASSERT_EQ(all.turns.size(), 2u);
  EXPECT_EQ(all.turns[0].version(), 1u);
  EXPECT_EQ(all.turns[0].messages(0).content(), odd);
  EXPECT_EQ(all.turns[0].answer().text(), odd);
  EXPECT_EQ(all.turns[1].version(), 2u);
  EXPECT_EQ(all.turns[1].answer().request_id(), "r2");
  const Conversation last = *store_->Read("a", "s", 1, 1);
  ASSERT_EQ(last.turns.size(), 1u);
  EXPECT_EQ(last.turns[0].version(), 2u);
  EXPECT_TRUE(store_->Read("a", "s", 2, 10)->turns.empty());
  EXPECT_TRUE(store_->Read("a", "s", 0, 0)->turns.empty());
}

TEST_P(SessionStoreTest, OneMayBeginWithMessages) {
  const v1::Session session = *store_->Create("a", New("s"), Said("be brief"));
  EXPECT_EQ(session.version(), 1u);
  EXPECT_EQ(session.messages(), 1u);
  const Conversation read = *store_->Read("a", "s", 0, 10);
  ASSERT_EQ(read.turns.size(), 1u);
  EXPECT_EQ(read.turns[0].version(), 1u);
  EXPECT_EQ(read.turns[0].messages(0).content(), "be brief");
  EXPECT_FALSE(read.turns[0].has_answer());
}

TEST_P(SessionStoreTest, NamesAreTakenOnce) {
  const v1::Session session = Create("a", "s");
  EXPECT_EQ(ReasonOf(store_->Create("a", New("s", absl::Hours(1), "other"), {}).status()), "SESSION_EXISTS");
  EXPECT_EQ(store_->Create("a", New("s"), {})->SerializeAsString(),
            session.SerializeAsString());  // asked again
  EXPECT_TRUE(store_->Delete("a", "s").ok());
  EXPECT_TRUE(store_->Create("a", New("s", absl::Hours(1), "other"), {}).ok());
  // What was read of the one before is not of this one.
  EXPECT_EQ(ReasonOf(store_->Append("a", session, Answered("r", "x")).status()), "SESSION_NOT_FOUND");
}

TEST_P(SessionStoreTest, WhoComesSecondIsToldSo) {
  const v1::Session base = Create("a", "s");
  ASSERT_TRUE(store_->Append("a", base, Answered("r1", "first")).ok());
  const absl::Status conflict = store_->Append("a", base, Answered("r2", "second")).status();
  EXPECT_EQ(conflict.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(conflict), "SESSION_VERSION_CONFLICT");
  EXPECT_THAT(conflict.message(), ::testing::HasSubstr("has version 1, expected 0"));
  EXPECT_EQ(store_->Read("a", "s", 0, 10)->turns.size(), 1u);
}

TEST_P(SessionStoreTest, ATurnIsAddedOnce) {
  const v1::Session base = Create("a", "s");
  const v1::Session once = *store_->Append("a", base, Answered("r1", "first"));
  EXPECT_EQ(store_->Append("a", base, Answered("r1", "first"))->version(), 1u);
  ASSERT_TRUE(store_->Append("a", once, Answered("r2", "second")).ok());
  EXPECT_EQ(store_->Append("a", base, Answered("r1", "first"))->version(), 1u);  // even so
  EXPECT_EQ(store_->Append("a", once, Answered("r2", "second"))->version(), 2u);
  EXPECT_EQ(ReasonOf(store_->Append("a", base, Answered("r", "")).status()), "SESSION_VERSION_CONFLICT");
  EXPECT_EQ(store_->Read("a", "s", 0, 10)->turns.size(), 2u);
}

TEST_P(SessionStoreTest, TenantsAreApart) {
  const v1::Session mine = Create("a", "s");
  for (const char* other : {"b", "a.", "A"}) {
    EXPECT_EQ(ReasonOf(store_->Find(other, "s").status()), "SESSION_NOT_FOUND");
    EXPECT_EQ(ReasonOf(store_->Read(other, "s", 0, 10).status()), "SESSION_NOT_FOUND");
    EXPECT_EQ(ReasonOf(store_->Read(other, "s", 0, 0).status()), "SESSION_NOT_FOUND");
    EXPECT_EQ(ReasonOf(store_->Append(other, mine, Answered("r", "x")).status()), "SESSION_NOT_FOUND");
    EXPECT_EQ(ReasonOf(store_->Delete(other, "s")), "SESSION_NOT_FOUND");
    EXPECT_THAT(Names(other, "", 10), ::testing::IsEmpty());
  }
  EXPECT_TRUE(store_->Find("a", "s").ok());
}

TEST_P(SessionStoreTest, ListsByName) {
  for (const char* name : {"b", "a", "a-1", "B", "c"}) Create("a", name);
  Create("a.", "z");
  EXPECT_THAT(Names("a", "", 10), ::testing::ElementsAre("B", "a", "a-1", "b", "c"));
  EXPECT_THAT(Names("a", "", 2), ::testing::ElementsAre("B", "a"));
  EXPECT_THAT(Names("a", "a", 2), ::testing::ElementsAre("a-1", "b"));
  EXPECT_THAT(Names("a", "aa", 2), ::testing::ElementsAre("b", "c"));
  EXPECT_THAT(Names("a", "c", 2), ::testing::IsEmpty());
  EXPECT_EQ(*store_->CountSessions(), 6u);
}

TEST_P(SessionStoreTest, EveryTurnPutsOffTheEnd) {
  ASSERT_TRUE(store_->Create("a", New("brief", absl::Milliseconds(20)), Said("x")).ok());
  v1::Session session = *store_->Create("a", New("long", absl::Minutes(1)), {});
  EXPECT_TRUE(Soon([&] { return ReasonOf(store_->Find("a", "brief").status()) == "SESSION_NOT_FOUND"; }));
  EXPECT_EQ(ReasonOf(store_->Read("a", "brief", 0, 1).status()), "SESSION_NOT_FOUND");
  EXPECT_THAT(Names("a", "", 10), ::testing::ElementsAre("long"));
  const v1::Session later = *store_->Append("a", session, Answered("r", "x"));
  EXPECT_GT(Milliseconds(later.expire_time()), Milliseconds(session.expire_time()));
  EXPECT_GT(Milliseconds(later.update_time()), Milliseconds(session.update_time()));
  // The name is free, and nothing is left of who had it.
  session = *store_->Create("a", New("brief", absl::Minutes(1), "other"), {});
  EXPECT_EQ(session.version(), 0u);
  EXPECT_TRUE(store_->Read("a", "brief", 0, 10)->turns.empty());
}

TEST_P(SessionStoreTest, ATenantHasSoManyAndNoMore) {
  options_.max_sessions = 2;
  options_.sweep_every = absl::Milliseconds(1);
  Open();
  Create("a", "s1");
  ASSERT_TRUE(store_->Create("a", New("s2", absl::Milliseconds(200)), {}).ok());
  const absl::Status full = store_->Create("a", New("s3"), {}).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), "STORE_FULL");
  Create("b", "s1");
  EXPECT_TRUE(Soon([&] { return store_->Create("a", New("s3"), {}).ok(); })) << "what expired counts no more";
  EXPECT_EQ(ReasonOf(store_->Create("a", New("s4"), {}).status()), "STORE_FULL");
  ASSERT_TRUE(store_->Delete("a", "s1").ok());
  EXPECT_TRUE(store_->Create("a", New("s4"), {}).ok());
  EXPECT_EQ(*store_->CountSessions(), 3u);
}

TEST_P(SessionStoreTest, StreamsAreKeptForATime) {
  ASSERT_TRUE(store_->PutStream(Stream("a", "1", 7), absl::Hours(1)).ok());
  ASSERT_TRUE(store_->PutStream(Stream("a", "2", 8), absl::Milliseconds(10)).ok());
  EXPECT_EQ(store_->FindStream("a", "1")->request().options().sampling().seed(), 7u);
  EXPECT_EQ(ReasonOf(store_->FindStream("b", "1").status()), "STREAM_NOT_FOUND");
  EXPECT_EQ(ReasonOf(store_->FindStream("a", "3").status()), "STREAM_NOT_FOUND");
  EXPECT_TRUE(Soon([&] { return ReasonOf(store_->FindStream("a", "2").status()) == "STREAM_NOT_FOUND"; }));
}

TEST_P(SessionStoreTest, OutlivesItsGateway) {
  v1::Session session = *store_->Append("a", Create("a", "s"), Answered("r1", "first"));
  ASSERT_TRUE(store_->PutStream(Stream("a", "1", 7), absl::Hours(1)).ok());
  Open();
  EXPECT_EQ(store_->Find("a", "s")->SerializeAsString(), session.SerializeAsString());
  EXPECT_EQ(store_->FindStream("a", "1")->request().options().sampling().seed(), 7u);
  EXPECT_EQ(*store_->CountSessions(), 1u);
  EXPECT_EQ(store_->Append("a", session, Answered("r2", "second"))->version(), 2u);
}

TEST_P(SessionStoreTest, OfManyWritersOneIsFirst) {
  constexpr int kThreads = 6, kTurns = 40;
  Create("a", "s");
  std::atomic<int> conflicts = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int added = 0; added < kTurns / kThreads;) {
        const v1::Session base = *store_->Find("a", "s");
        const auto session = store_->Append("a", base, Answered(absl::StrCat(i, "-", added), "x"));
        if (session.ok()) {
          EXPECT_EQ(session->version(), base.version() + 1);
          ++added;
        } else {
          EXPECT_EQ(ReasonOf(session.status()), "SESSION_VERSION_CONFLICT");
          ++conflicts;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Conversation read = *store_->Read("a", "s", 0, 1000);
  EXPECT_EQ(read.session.version(), kTurns / kThreads * kThreads);
  std::set<std::string> ids;
  for (size_t i = 0; i < read.turns.size(); ++i) {
    EXPECT_EQ(read.turns[i].version(), i + 1);
    ids.insert(read.turns[i].answer().request_id());
  }
  EXPECT_EQ(ids.size(), read.session.version());
}

TEST_P(SessionStoreTest, AnErasedTenantIsGoneFromDisk) {
  const std::string canary = "canary-in-a-turn", id = "canary-in-an-id", name = "canary-in-a-name";
  for (const char* tenant : {"canary-tenant", "other"}) {
    const std::string mark = tenant == std::string("other") ? "kept-" : "";
    v1::Session session = *store_->Create(tenant, New(mark + name), Said(mark + canary));
    ASSERT_TRUE(store_->Append(tenant, session, Answered(mark + "r", mark + canary)).ok());
    ASSERT_TRUE(store_->PutStream(Stream(tenant, mark + id, 1), absl::Hours(1)).ok());
    ASSERT_TRUE(store_->Delete(tenant, mark + name).ok());
    ASSERT_TRUE(store_->Create(tenant, New(mark + name), Said(mark + canary)).ok());
  }
  for (const std::string& text : {canary, id, name, std::string("canary-tenant")})
    EXPECT_TRUE(Stored(text)) << text;
  ASSERT_TRUE(store_->EraseTenant("canary-tenant").ok());
  EXPECT_EQ(ReasonOf(store_->Find("canary-tenant", name).status()), "SESSION_NOT_FOUND");
  EXPECT_EQ(ReasonOf(store_->FindStream("canary-tenant", id).status()), "STREAM_NOT_FOUND");
  EXPECT_THAT(Names("canary-tenant", "", 10), ::testing::IsEmpty());
  EXPECT_TRUE(Soon([&] { return !Stored("canary-tenant"); }));  // Redis writes its log anew in the background
  EXPECT_EQ(store_->Find("other", "kept-" + name)->version(), 1u);
  EXPECT_EQ(store_->Read("other", "kept-" + name, 0, 1)->turns[0].messages(0).content(), "kept-" + canary);
  EXPECT_TRUE(store_->FindStream("other", "kept-" + id).ok());
  EXPECT_EQ(*store_->CountSessions(), 1u);
  Open();
  EXPECT_EQ(*store_->CountSessions(), 1u);
  EXPECT_EQ(ReasonOf(store_->Find("canary-tenant", name).status()), "SESSION_NOT_FOUND");
}

// Against a std::map, by chance.
TEST_P(SessionStoreTest, DoesWhatAMapWould) {
  struct Naive {
    std::string uid;
    std::vector<std::string> turns;
  };
  std::map<std::string, std::map<std::string, Naive>> naive;  // tenant -> name
  std::mt19937_64 random(5);
  const auto pick = [&](std::initializer_list<const char*> of) -> std::string {
    return *(of.begin() + random() % of.size());
  };
  for (int i = 0; i < 400; ++i) {
    const std::string tenant = pick({"a", "b"}), name = pick({"s", "t", "u", "s1"});
    std::map<std::string, Naive>& sessions = naive[tenant];
    const auto there = sessions.find(name);
    const std::string uid = absl::StrCat(i);
    switch (random() % 5) {
      case 0: {
        const absl::Status status = store_->Create(tenant, New(name, absl::Hours(1), uid), {}).status();
        EXPECT_EQ(ReasonOf(status), there == sessions.end() ? "" : "SESSION_EXISTS");
        if (there == sessions.end()) sessions[name] = {.uid = uid};
        break;
      }
      case 1: {
        if (random() % 3 > 0) break;
        EXPECT_EQ(ReasonOf(store_->Delete(tenant, name)), there == sessions.end() ? "SESSION_NOT_FOUND" : "");
        if (there != sessions.end()) sessions.erase(there);
        break;
      }
      case 2:
      case 3: {
        v1::Session base = New(name, absl::Hours(1), there == sessions.end() ? uid : there->second.uid);
        base.set_version(there == sessions.end() ? 0 : there->second.turns.size() + (random() % 4 == 0));
        const bool fits = there != sessions.end() && base.version() == there->second.turns.size();
        const absl::Status status = store_->Append(tenant, base, Answered(uid, uid)).status();
        EXPECT_EQ(ReasonOf(status), there == sessions.end() ? "SESSION_NOT_FOUND"
                                    : fits                  ? ""
                                                            : "SESSION_VERSION_CONFLICT");
        if (fits) there->second.turns.push_back(uid);
        break;
      }
      default: {
        const auto read = store_->Read(tenant, name, 0, 1000);
        ASSERT_EQ(read.ok(), there != sessions.end());
        if (!read.ok()) break;
        ASSERT_EQ(read->turns.size(), there->second.turns.size());
        for (size_t t = 0; t < read->turns.size(); ++t)
          EXPECT_EQ(read->turns[t].answer().text(), there->second.turns[t]);
        EXPECT_EQ(read->session.messages(), 2 * read->turns.size());
      }
    }
    std::vector<std::string> names;
    for (const auto& [one, ignored] : sessions) names.push_back(one);
    EXPECT_EQ(Names(tenant, "", 100), names);
    EXPECT_EQ(*store_->CountSessions(), naive["a"].size() + naive["b"].size());
  }
}

}  // namespace
}  // namespace clamor
