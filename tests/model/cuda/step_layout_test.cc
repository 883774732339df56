// What a batch becomes for the device, field by field.
#include "model/cuda/step_layout.h"

#include <cstring>
#include <iterator>
#include <vector>

#include "gtest/gtest.h"

namespace clamor {
namespace {

using kernels::cuda::AttentionRow;
using kernels::cuda::AttentionTile;
using kernels::cuda::Draw;

TEST(StepLayoutTest, FewShapesOccur) {
  EXPECT_EQ(RoundedRows(1), 1);
  EXPECT_EQ(RoundedRows(5), 8);
  EXPECT_EQ(RoundedRows(64), 64);
  EXPECT_EQ(RoundedRows(65), 128);
  EXPECT_EQ(RoundedRows(129), 192);
  EXPECT_EQ(RoundedPages(1), 8);
  EXPECT_EQ(RoundedPages(9), 16);
}

TEST(StepLayoutTest, PlacesAreAlignedAndApart) {
  const StepPlaces places({.rows = 3, .wanted = 1, .sequences = 2, .pages_per_sequence = 8, .draws = true});
  const size_t all[] = {places.attention, places.tiles, places.tokens,     places.positions, places.slots,
                        places.which,     places.draws, places.page_table, places.bytes};
  const size_t least[] = {
      3 * sizeof(AttentionRow), 3 * sizeof(AttentionTile), 12, 12, 12, 4, sizeof(Draw), 64};
  for (size_t i = 0; i < std::size(least); ++i) {
    EXPECT_EQ(all[i] % 16, 0u) << i;
    EXPECT_GE(all[i + 1] - all[i], least[i]) << i;
  }
}

template <class T>
std::vector<T> Read(const std::vector<std::byte>& bytes, size_t at, size_t n) {
  std::vector<T> v(n);
  std::memcpy(v.data(), bytes.data() + at, n * sizeof(T));
  return v;
}

// Two prompt rows of one sequence; of another the root and three guesses, the third below the first.
TEST(StepLayoutTest, RowsNameTheirAncestorsAndPages) {
  const int32_t prompt_pages[] = {4}, tree_pages[] = {2, 0};
  Batch batch;
  batch.tokens = {10, 11, 20, 21, 22, 23};
  batch.positions = {0, 1, 16, 17, 17, 18};
  batch.slots = {64, 65, 0, 1, 2, 3};
  batch.logit_rows = {2, 3, 4, 5};
  batch.draws = {{}, {.seed = 7, .position = 18, .temperature = 0.5f}, {}, {}};
  batch.extra = {1, 2, 1, 3};
  batch.attention = {{.pages = prompt_pages, .prefix = 1},
                     {.pages = prompt_pages, .prefix = 2},
                     {.pages = tree_pages, .prefix = 17},
                     {.pages = tree_pages, .prefix = 17, .extra = &batch.extra[0], .extra_count = 1},
                     {.pages = tree_pages, .prefix = 17, .extra = &batch.extra[1], .extra_count = 1},
                     {.pages = tree_pages, .prefix = 17, .extra = &batch.extra[2], .extra_count = 2}};
  StepWriter writer(/*slots=*/80, /*group=*/32, /*max_sequences=*/3);
  const StepShape shape = writer.ShapeOf(batch);
  EXPECT_EQ(shape,
            (StepShape{.rows = 8, .wanted = 4, .sequences = 3, .pages_per_sequence = 8, .draws = true}));
  const StepPlaces places(shape);
  std::vector<std::byte> bytes(places.bytes);
  writer.Write(batch, shape, bytes.data());

  EXPECT_EQ(Read<int32_t>(bytes, places.tokens, 8), (std::vector<int32_t>{10, 11, 20, 21, 22, 23, 0, 0}));
  EXPECT_EQ(Read<int32_t>(bytes, places.positions, 8), (std::vector<int32_t>{0, 1, 16, 17, 17, 18, 0, 0}));
  EXPECT_EQ(Read<int32_t>(bytes, places.slots, 8), (std::vector<int32_t>{64, 65, 0, 1, 2, 3, 86, 87}));
  EXPECT_EQ(Read<int32_t>(bytes, places.which, 4), batch.logit_rows);
  const auto draws = Read<Draw>(bytes, places.draws, 4);
  EXPECT_EQ(draws[0].temperature, 0);
  EXPECT_EQ(draws[1].temperature, 0.5f);
  EXPECT_EQ(draws[1].seed, 7u);
  EXPECT_EQ(draws[1].position, 18);
  EXPECT_EQ(draws[3].temperature, 0);
  const auto table = Read<int32_t>(bytes, places.page_table, 16);
  EXPECT_EQ(table[0], 4);
  EXPECT_EQ(table[8], 2);
  EXPECT_EQ(table[9], 0);

  const auto rows = Read<AttentionRow>(bytes, places.attention, 8);
  EXPECT_EQ(rows[1].prefix, 2);
  EXPECT_EQ(rows[1].ancestors, 0u);
  EXPECT_EQ(rows[1].sequence, 0);
  EXPECT_EQ(rows[2].sequence, 1);
  EXPECT_EQ(rows[5].tree, 3);
  EXPECT_EQ(rows[5].ancestors, 0b101u);
  EXPECT_EQ(rows[5].position, 18);
  EXPECT_EQ(rows[7].tree, 7);  // sees itself alone
  EXPECT_EQ(rows[7].ancestors, 1u);
  EXPECT_EQ(rows[7].prefix, 0);

  // Two rows of 32 heads to a tile, none of two sequences.
  const auto tiles = Read<AttentionTile>(bytes, places.tiles, 8);
  const int32_t first[] = {0, 2, 4}, count[] = {2, 2, 2};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(tiles[i].first, first[i]) << i;
    EXPECT_EQ(tiles[i].rows, count[i]) << i;
  }
  for (int i = 3; i < 8; ++i) EXPECT_EQ(tiles[i].rows, 0) << i;
}

TEST(StepLayoutDeathTest, WhatTheDeviceCannotSeeEndsTheProcess) {
  const int32_t pages[] = {0};
  Batch batch;
  batch.tokens = {1};
  batch.positions = {1};
  batch.slots = {1};
  batch.extra = {5, 1};  // slot 5 is no row of this batch
  batch.attention = {{.pages = pages, .prefix = 0, .extra = &batch.extra[0], .extra_count = 2}};
  StepWriter writer(/*slots=*/16, /*group=*/1, /*max_sequences=*/1);
  const StepShape shape = writer.ShapeOf(batch);
  std::vector<std::byte> bytes(StepPlaces(shape).bytes);
  EXPECT_DEATH(writer.Write(batch, shape, bytes.data()), "row 0: sees a slot that is no row before it");
}

}  // namespace
}  // namespace clamor
