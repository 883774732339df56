// The changes that crash_writer makes and suffix_store_crash_test expects.
#pragma once

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/status_macros.h"
#include "retrieval/bulk_files.h"
#include "retrieval/suffix_store.h"
#include "tests/retrieval/naive_store.h"

namespace clamor::retrieval {

struct Change {
  Namespace ns;
  bool remove = false, load = false;  // neither: append
  std::vector<std::string> ids;
  std::vector<Tokens> tokens;
};

inline Change MakeChange(uint64_t seed, uint64_t number) {
  std::mt19937_64 random(seed * 1000003 + number);
  Change change;
  change.ns = {random() % 2 ? "ann" : "bob", "f0"};
  change.remove = random() % 5 == 0;
  change.load = !change.remove && random() % 8 == 0;
  const size_t count = change.remove ? 1 : 1 + random() % 3;
  for (size_t i = 0; i < count; ++i) {
    change.ids.push_back(std::to_string(random() % 40));
    Tokens tokens(1 + random() % 200);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % 5);
    change.tokens.push_back(std::move(tokens));
  }
  return change;
}

// `scratch` is a folder for the segments that are loaded.
inline absl::Status Apply(SuffixStore& store, const Change& change, const std::string& scratch) {
  if (change.remove) return store.DeleteDocument(change.ns, change.ids[0]).status();
  if (change.load) {
    std::filesystem::remove_all(scratch);
    BulkWriter writer(scratch, change.ns, 1 << 20);
    for (size_t i = 0; i < change.ids.size(); ++i)
      CLAMOR_RETURN_IF_ERROR(writer.Add(change.ids[i], change.tokens[i]));
    CLAMOR_RETURN_IF_ERROR(writer.Finish());
    CLAMOR_ASSIGN_OR_RETURN(const std::vector<std::string> paths, ListBulkSegments(scratch));
    return store.LoadSegment(paths.front()).status();
  }
  std::vector<Document> documents;
  for (size_t i = 0; i < change.ids.size(); ++i) documents.push_back({change.ids[i], change.tokens[i]});
  return store.AppendBatch(change.ns, documents).status();
}

inline void Apply(NaiveStore& store, const Change& change) {
  if (change.remove) store.DeleteDocument(change.ns, change.ids[0]);
  if (change.remove) return;
  // Of equal ids the last counts.
  for (size_t i = 0; i < change.ids.size(); ++i) {
    bool last = true;
    for (size_t j = i + 1; j < change.ids.size(); ++j) last = last && change.ids[j] != change.ids[i];
    if (last) store.Append(change.ns, change.ids[i], change.tokens[i]);
  }
}

}  // namespace clamor::retrieval
