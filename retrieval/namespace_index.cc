#include "retrieval/namespace_index.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor::retrieval {
namespace {

int64_t HotTokens(const Parts& parts) {
  int64_t total = 0;
  for (const Part& part : parts) {
    if (part.segment->path().empty()) total += static_cast<int64_t>(part.segment->tokens());
  }
  return total;
}

absl::Status RemoveFile(const Segment& segment) {
  if (segment.path().empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::remove(segment.path(), error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(segment.path(), ": cannot be removed: ", error.message()));
}

// Drops the documents of these numbers that are live in `part`.
void Drop(Part& part, std::span<const uint64_t> numbers) {
  std::shared_ptr<Segment::DeadSet> dead;  // a copy: readers hold the old one
  for (const uint64_t number : numbers) {
    const std::optional<size_t> index = part.segment->Find(number);
    if (!index || (part.dead != nullptr && (*part.dead)[*index])) continue;
    if (dead == nullptr) {
      dead = part.dead ? std::make_shared<Segment::DeadSet>(*part.dead)
                       : std::make_shared<Segment::DeadSet>(part.segment->documents().size());
    }
    (*dead)[*index] = true;
    part.dead_tokens += part.segment->documents()[*index].size;
  }
  if (dead != nullptr) part.dead = std::move(dead);
}

}  // namespace

NamespaceIndex::NamespaceIndex(std::string prefix, std::atomic<int64_t>& hot_tokens)
    : prefix_(std::move(prefix)), hot_tokens_(hot_tokens), parts_(std::make_shared<Parts>()) {}

NamespaceIndex::~NamespaceIndex() { hot_tokens_ -= HotTokens(*parts_); }

std::shared_ptr<const Parts> NamespaceIndex::snapshot() const {
  const std::shared_lock lock(mu_);
  return parts_;
}

void NamespaceIndex::Set(Parts parts) {
  hot_tokens_ += HotTokens(parts) - HotTokens(*parts_);
  parts_ = std::make_shared<const Parts>(std::move(parts));
}

void NamespaceIndex::Publish(Part part, std::span<const uint64_t> removed) {
  const std::lock_guard lock(mu_);
  Parts parts = *parts_;
  for (Part& each : parts) Drop(each, removed);
  if (part.segment != nullptr) parts.push_back(std::move(part));
  Set(std::move(parts));
}

bool NamespaceIndex::Replace(std::span<const Part> inputs, std::shared_ptr<const Segment> merged) {
  {
    const std::lock_guard lock(mu_);
    if (closed_) return false;
    Parts parts;
    std::vector<uint64_t> dropped;  // since the inputs were taken
    for (const Part& part : *parts_) {
      const auto input = std::ranges::find(inputs, part.segment, &Part::segment);
      if (input == inputs.end()) {
        parts.push_back(part);
      } else if (part.dead != input->dead) {
        for (size_t i = 0; i < part.dead->size(); ++i) {
          const bool was_dead = input->dead != nullptr && (*input->dead)[i];
          if ((*part.dead)[i] && !was_dead) dropped.push_back(part.segment->documents()[i].number);
        }
      }
    }
    if (merged != nullptr) {
      parts.push_back({.segment = std::move(merged), .dead = nullptr});
      Drop(parts.back(), dropped);
    }
    Set(std::move(parts));
  }
  // A file that cannot be removed holds no live document: the next start will leave it out and try again.
  for (const Part& input : inputs) RemoveFile(*input.segment).IgnoreError();
  return true;
}

absl::Status NamespaceIndex::Close() {
  const std::unique_lock merging(merge_mu_);
  const std::lock_guard lock(mu_);
  closed_ = true;
  absl::Status status;
  for (const Part& part : *parts_) status.Update(RemoveFile(*part.segment));
  Set({});
  return status;
}

bool NamespaceIndex::closed() const {
  const std::shared_lock lock(mu_);
  return closed_;
}

absl::Status NamespaceIndex::CheckIntegrity() const {
  const std::shared_ptr<const Parts> parts = snapshot();
  std::vector<uint64_t> numbers;
  for (const Part& part : *parts) {
    CLAMOR_RETURN_IF_ERROR(part.segment->CheckIntegrity());
    uint64_t dead_tokens = 0;
    for (size_t i = 0; i < part.segment->documents().size(); ++i) {
      if (part.dead != nullptr && (*part.dead)[i]) {
        dead_tokens += part.segment->documents()[i].size;
      } else {
        numbers.push_back(part.segment->documents()[i].number);
      }
    }
    if (dead_tokens != part.dead_tokens) {
      return absl::DataLossError(
          absl::StrCat("a part says it has ", part.dead_tokens, " dead tokens, it has ", dead_tokens));
    }
  }
  std::ranges::sort(numbers);
  if (const auto twice = std::ranges::adjacent_find(numbers); twice != numbers.end()) {
    return absl::DataLossError(absl::StrCat("document ", *twice, " is live in two segments"));
  }
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
