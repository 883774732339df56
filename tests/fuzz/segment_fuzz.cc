// A segment file of any bytes is refused or harmless. The first byte says whether its checksums are made to
// fit, the next eight are a context to look for.
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "retrieval/draft.h"
#include "retrieval/segment.h"
#include "tests/fuzz/fuzz_file.h"
#include "tests/retrieval/seal_segment_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor::retrieval;  // NOLINT
  constexpr size_t kBefore = 9;
  if (size < kBefore) return 0;
  std::vector<uint32_t> context(data + 1, data + kBefore);
  std::string bytes(reinterpret_cast<const char*>(data) + kBefore, size - kBefore);
  if (data[0] % 4 != 0) SealSegmentFile(bytes);

  const auto segment = Segment::Open(clamor::FuzzFile(bytes));
  if (!segment.ok()) {
    if (!absl::IsDataLoss(segment.status())) std::abort();
    return 0;
  }
  const Parts parts = {{.segment = *segment, .dead = nullptr}};
  for (const int32_t occurrences : {1, 256}) {
    const Trie trie = Draft(parts, context, {.min_match = 1, .max_occurrences = occurrences});
    for (const Trie::Node& node : trie.nodes) {
      if (node.token >= 1u << 31) std::abort();
    }
  }
  const absl::Status sound = (*segment)->CheckIntegrity();
  if (!sound.ok() && !absl::IsDataLoss(sound)) std::abort();
  const std::atomic<bool> cancelled{false};
  const std::array<Segment::Input, 1> inputs = {{{segment->get(), nullptr}}};
  const absl::Status merged = Segment::Merge("p", inputs, "", cancelled).status();
  if (!merged.ok() && !absl::IsDataLoss(merged)) std::abort();
  if (sound.ok() && !merged.ok()) std::abort();
  return 0;
}
