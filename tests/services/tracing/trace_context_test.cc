#include "services/tracing/trace_context.h"

#include <gtest/gtest.h>

namespace clamor {
namespace {

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, ComesAndGoesTheSame) {
  for (const std::string flags : {"00", "01"}) {
    const std::string parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + flags;
    const auto trace = ParseTraceContext(parent, "vendor=a,other=b");
    ASSERT_TRUE(trace.has_value());
    EXPECT_EQ(trace->sampled, flags == "01");
    EXPECT_EQ(trace->TraceIdText(), "0af7651916cd43dd8448eb211c80319c");
    EXPECT_EQ(trace->Traceparent(), parent);
    EXPECT_EQ(trace->state, "vendor=a,other=b");
  }
  EXPECT_FALSE(TraceContext().valid());
  EXPECT_EQ(TraceContext().TraceIdText(), "-");
}

// Those of the standard's own text and tests: https://github.com/w3c/trace-context.
TEST(TraceContextTest, OnlyTheLowestFlagIsOurs) {
  EXPECT_TRUE(ParseTraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", "")->sampled);
  EXPECT_FALSE(ParseTraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe", "")->sampled);
}

TEST(TraceContextTest, LaterVersionsMayHaveMore) {
  const std::string later = std::string(kParent).replace(0, 2, "cc");
  EXPECT_TRUE(ParseTraceContext(later, "").has_value());
  EXPECT_TRUE(ParseTraceContext(later + "-what-the-future-brings", "").has_value());
  EXPECT_FALSE(ParseTraceContext(later + ".what-the-future-brings", "").has_value());
}

TEST(TraceContextTest, WhatIsMalformedIsNone) {
  for (const char* wrong : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
                            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                            "00-0af7651916cd43dd8448eb211c8031-9cb7ad6b7169203331-01"}) {
    EXPECT_FALSE(ParseTraceContext(wrong, "").has_value()) << wrong;
  }
}

TEST(TraceContextTest, StateIsBounded) {
  EXPECT_EQ(ParseTraceContext(kParent, std::string(512, 'a'))->state.size(), 512u);
  EXPECT_EQ(ParseTraceContext(kParent, std::string(513, 'a'))->state, "");
  EXPECT_EQ(ParseTraceContext(kParent, "a=\n")->state, "");
  EXPECT_EQ(ParseTraceContext(kParent, "a=\xc3\xa4")->state, "");
}

}  // namespace
}  // namespace clamor
