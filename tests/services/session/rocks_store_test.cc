// What a store in a folder does beyond the contract.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/rpc_error.h"
#include "services/session/session_store.h"
#include "tests/services/session/redis_server.h"

namespace clamor {
namespace {

using testing::Soon;
using testing::TempFolder;

v1::StoredStream Stream(const std::string& id) {
  v1::StoredStream stream;
  stream.mutable_request()->set_tenant("a");
  stream.mutable_request()->set_request_id(id);
  return stream;
}

TEST(RocksStoreTest, IsOneProcesss) {
  const TempFolder folder;
  const StoreOptions options{.location = folder / "store"};
  const auto store = OpenSessionStore(options);
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status second = OpenSessionStore(options).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(second.message(), ::testing::HasSubstr("lock"));
}

TEST(RocksStoreTest, KeepsAFewStreams) {
  const TempFolder folder;
  auto store = *OpenSessionStore(
      {.location = folder / "store", .max_streams = 2, .sweep_every = absl::Milliseconds(1)});
  ASSERT_TRUE(store->PutStream(Stream("1"), absl::Hours(1)).ok());
  ASSERT_TRUE(store->PutStream(Stream("2"), absl::Milliseconds(300)).ok());
  EXPECT_EQ(ReasonOf(store->PutStream(Stream("3"), absl::Hours(1))), "STORE_FULL");
  EXPECT_TRUE(Soon([&] { return store->PutStream(Stream("3"), absl::Hours(1)).ok(); }));
  EXPECT_EQ(ReasonOf(store->PutStream(Stream("4"), absl::Hours(1))), "STORE_FULL");
  store = nullptr;
  store = *OpenSessionStore({.location = folder / "store", .max_streams = 2});
  EXPECT_EQ(ReasonOf(store->PutStream(Stream("4"), absl::Hours(1))), "STORE_FULL")
      << "counted after a restart";
}

TEST(RocksStoreTest, KeepsSoManyBytesOfStreams) {
  const TempFolder folder;
  auto store = *OpenSessionStore({.location = folder / "store", .max_stream_bytes = 1000});
  v1::StoredStream stream = Stream("1");
  stream.mutable_request()->mutable_prompt_ids()->Resize(2000, 7);
  EXPECT_EQ(ReasonOf(store->PutStream(stream, absl::Hours(1))), "STORE_FULL");
  EXPECT_TRUE(store->PutStream(Stream("1"), absl::Hours(1)).ok());
}

TEST(RocksStoreTest, WhatIsOfRedisIsRefused) {
  const TempFolder folder;
  const absl::Status refused =
      OpenSessionStore({.location = folder / "store", .password_file = "p"}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace clamor
