#include "services/gateway/padding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "clamor/v1/generation.pb.h"

namespace clamor {
namespace {

v1::StreamGenerateResponse ResponseWith(size_t text_bytes) {
  v1::StreamGenerateResponse response;
  if (text_bytes > 0) response.mutable_delta()->set_text(std::string(text_bytes, 'x'));
  return response;
}

TEST(PaddingTest, EveryMessageIsTheLeastMultipleThatItCanBe) {
  for (const size_t bytes : {1, 2, 3, 16, 100, 129, 130, 131, 132, 133, 256, 512, 1000, 16383, 16384}) {
    for (size_t text = 0; text < 17'000; text += text < 420 || (text > 16'300 && text < 16'420) ? 1 : 61) {
      v1::StreamGenerateResponse response = ResponseWith(text);
      const v1::StreamGenerateResponse before = response;
      size_t whole = 0;
      while (whole < before.ByteSizeLong() || whole == before.ByteSizeLong() + 1) whole += bytes;
      Pad(bytes, &response);
      ASSERT_EQ(response.ByteSizeLong(), whole) << bytes << " " << text;
      ASSERT_EQ(response.SerializeAsString().size(), whole) << bytes << " " << text;
      ASSERT_LE(response.padding_size(), 2);
      response.clear_padding();
      ASSERT_EQ(response.SerializeAsString(), before.SerializeAsString());
    }
  }
}

TEST(PaddingTest, OffItLeavesThemAlone) {
  v1::StreamGenerateResponse response = ResponseWith(5);
  Pad(0, &response);
  EXPECT_EQ(response.SerializeAsString(), ResponseWith(5).SerializeAsString());
}

}  // namespace
}  // namespace clamor
