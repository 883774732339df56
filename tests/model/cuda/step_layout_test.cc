// What a batch becomes for the device, field by field.
#include "model/cuda/step_layout.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

TEST(StepLayoutTest, FewShapesOccur) {
  EXPECT_EQ(RoundedRows(1), 1);
  EXPECT_EQ(RoundedRows(5), 8);
  EXPECT_EQ(RoundedRows(64), 64);
  EXPECT_EQ(RoundedRows(65), 128);
  EXPECT_EQ(RoundedRows(129), 192);
  EXPECT_EQ(RoundedPages(1), 8);
  EXPECT_EQ(RoundedPages(9), 16);
}

}  // namespace
}  // namespace clamor
