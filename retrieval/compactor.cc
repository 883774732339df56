#include "retrieval/compactor.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"

namespace clamor::retrieval {
namespace {

constexpr size_t kFanIn = 4;                      // like-sized parts that are merged at a time
constexpr size_t kFewParts = 16;                  // more: who adds is slowed down by merges that are due
constexpr size_t kManyParts = 32;                 // more: by large ones too; merge whatever fits together
constexpr size_t kTooManyParts = 2 * kManyParts;  // more: hold up who adds
constexpr std::chrono::seconds kSlowDown{1};      // at most, each time
constexpr int kNice = 5;                          // of the threads that merge

Parts HotParts(const Parts& parts) {
  Parts hot;
  std::ranges::copy_if(parts, std::back_inserter(hot),
                       [](const Part& part) { return part.segment->path().empty(); });
  return hot;
}

uint64_t LiveTokens(const Part& part) { return part.segment->tokens() - part.dead_tokens; }

uint64_t LiveTokens(std::span<const Part> parts) {
  return std::accumulate(parts.begin(), parts.end(), uint64_t{0},
                         [](uint64_t sum, const Part& part) { return sum + LiveTokens(part); });
}

// An upper bound of the text of a merged segment: end marks are one per document.
uint64_t TextSize(const Part& part) { return part.segment->tokens() + part.segment->documents().size() + 1; }

// Of the thread that calls it. Lookups wait for nothing: a merge may wait for them.
void LowerPriority() { setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice); }

}  // namespace

std::vector<size_t> PickMerge(const Parts& parts, uint64_t max_tokens) {
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].dead_tokens * 4 >= parts[i].segment->tokens()) return {i};
  }
  std::vector<size_t> by_size(parts.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::ranges::sort(by_size, {}, [&](size_t i) { return TextSize(parts[i]); });
  // As many of the smallest as are of like size: the greatest makes up no more than its share of a full
  // merge.
  size_t best = 0;
  uint64_t total = 0;
  for (size_t count = 1; count <= by_size.size(); ++count) {
    const uint64_t greatest = TextSize(parts[by_size[count - 1]]);
    total += greatest;
    if (total > max_tokens) break;
    if (greatest * kFanIn <= total || parts.size() > kManyParts) best = count;
  }
  if (best > 1) {
    by_size.resize(best);
    // Much smaller ones do not sit through a merge that has enough without them: they have their own, soon.
    const uint64_t like = TextSize(parts[by_size.back()]) / kFanIn;
    const auto much_smaller =
        std::ranges::lower_bound(by_size, like, {}, [&](size_t i) { return TextSize(parts[i]); });
    if (by_size.end() - much_smaller >= static_cast<std::ptrdiff_t>(kFanIn))
      by_size.erase(by_size.begin(), much_smaller);
    return by_size;
  }
  // Two that nearly make a full segment, which is merged no more.
  for (size_t i = 1; i < by_size.size(); ++i) {
    const uint64_t smaller = TextSize(parts[by_size[i - 1]]), both = smaller + TextSize(parts[by_size[i]]);
    if (both <= max_tokens && both >= max_tokens / 4 * 3 && smaller >= both / kFanIn)
      return {by_size[i - 1], by_size[i]};
  }
  return {};
}

Compactor::Compactor(std::string folder, uint64_t next_file, int64_t hot_limit, uint64_t large_tokens)
    : folder_(std::move(folder)),
      hot_limit_(hot_limit),
      large_tokens_(large_tokens),
      next_file_(next_file),
      thread_([this] { Run(); }),
      large_thread_([this] { RunLarge(); }) {}

Compactor::~Compactor() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
  }
  work_.notify_all();
  large_work_.notify_all();
  thread_.join();
  large_thread_.join();
}

void Compactor::Schedule(const std::shared_ptr<NamespaceIndex>& index) {
  {
    const std::lock_guard lock(mu_);
    Enqueue(index);
  }
  work_.notify_one();
}

void Compactor::Enqueue(const std::shared_ptr<NamespaceIndex>& index) {
  known_[index.get()] = index;
  if (queued_.insert(index.get()).second) queue_.push_back(index);
}

absl::Status Compactor::WaitForRoom(const std::shared_ptr<NamespaceIndex>& index) {
  auto parts = [&] { return index->snapshot()->size(); };
  auto full = [&] { return parts() > kTooManyParts || hot_tokens_ > 2 * hot_limit_; };
  std::unique_lock lock(mu_);
  if (full()) {
    Enqueue(index);
    work_.notify_one();
    // What began before, and failed for want of disk space perhaps, may succeed now.
    auto failed = [&, begun = begun_] { return failed_ > begun; };
    progress_.wait(lock, [&] { return !full() || Idle() || failed(); });
    if (full() && failed()) return last_error_;
  }
  auto crowded = [&] {
    const size_t count = parts();
    return (count > kFewParts && Due(index.get())) || (count > kManyParts && !Idle());
  };
  progress_.wait_for(lock, kSlowDown, [&] { return !crowded(); });
  return absl::OkStatus();
}

std::string Compactor::NextFile() { return absl::StrFormat("%s/%012d.seg", folder_, next_file_++); }

void Compactor::WaitUntilIdle() {
  std::unique_lock lock(mu_);
  progress_.wait(lock, [&] { return Idle(); });
}

void Compactor::End(uint64_t run, absl::Status status) {
  if (status.ok() || run < failed_) return;
  failed_ = run;
  last_error_ = std::move(status);
}

void Compactor::Run() {
  LowerPriority();
  for (;;) {
    std::shared_ptr<NamespaceIndex> index;
    uint64_t run;
    {
      std::unique_lock lock(mu_);
      work_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      index = std::move(queue_.front());
      queue_.pop_front();
      queued_.erase(index.get());
      running_ = index.get();
      run = ++begun_;
    }
    absl::Status status = Compact(index);
    if (status.ok()) status = SpillHot();
    index.reset();
    {
      const std::lock_guard lock(mu_);
      running_ = nullptr;
      End(run, std::move(status));
    }
    progress_.notify_all();
  }
}

void Compactor::RunLarge() {
  LowerPriority();
  for (;;) {
    LargeMerge merge;
    uint64_t run;
    {
      std::unique_lock lock(mu_);
      large_work_.wait(lock, [&] { return stop_ || !large_queue_.empty(); });
      if (stop_) return;
      merge = std::move(large_queue_.front());
      large_queue_.pop_front();
      busy_large_ = true;
      run = ++begun_;
    }
    absl::Status status;
    {
      const std::shared_lock merging(merge.index->merge_mutex());
      if (!merge.index->closed()) status = Merge(*merge.index, merge.inputs, /*to_file=*/true);
    }
    {
      const std::lock_guard lock(mu_);
      busy_large_ = false;
      for (const Part& part : merge.inputs) in_large_merges_.erase(part.segment.get());
      if (status.ok()) Enqueue(merge.index);  // else the next change tries again
      End(run, std::move(status));
    }
    merge = {};
    work_.notify_one();
    progress_.notify_all();
  }
}

Parts Compactor::FreeParts(const NamespaceIndex& index) {
  // A snapshot from before the lock could hold the inputs of a merge that has ended since.
  const std::lock_guard lock(mu_);
  Parts parts = *index.snapshot();
  std::erase_if(parts, [&](const Part& part) { return in_large_merges_.contains(part.segment.get()); });
  return parts;
}

absl::Status Compactor::Compact(const std::shared_ptr<NamespaceIndex>& index) {
  const std::shared_lock merging(index->merge_mutex());
  for (;;) {
    const Parts parts = FreeParts(*index);
    Parts inputs;
    for (const size_t i : PickMerge(parts)) inputs.push_back(parts[i]);
    if (inputs.empty()) return absl::OkStatus();
    if (LiveTokens(inputs) < large_tokens_) {
      CLAMOR_RETURN_IF_ERROR(Merge(*index, inputs, /*to_file=*/LiveTokens(inputs) >= kFileTokens));
      continue;
    }
    // What is on the heap does not stay there for as long as that takes.
    if (const Parts hot = HotParts(inputs); !hot.empty()) {
      CLAMOR_RETURN_IF_ERROR(Merge(*index, hot, /*to_file=*/true));
      continue;
    }
    const std::lock_guard lock(mu_);
    for (const Part& part : inputs) in_large_merges_.insert(part.segment.get());
    large_queue_.push_back({index, std::move(inputs)});
    large_work_.notify_one();
  }
}

absl::Status Compactor::SpillHot() {
  if (hot_tokens_ <= hot_limit_) return absl::OkStatus();
  std::vector<std::pair<uint64_t, std::shared_ptr<NamespaceIndex>>> by_heap;
  {
    const std::lock_guard lock(mu_);
    absl::erase_if(known_, [](const auto& entry) { return entry.second.expired(); });
    for (const auto& [key, weak] : known_) {
      if (std::shared_ptr<NamespaceIndex> index = weak.lock()) by_heap.emplace_back(0, std::move(index));
    }
  }
  for (auto& [tokens, index] : by_heap) tokens = LiveTokens(HotParts(*index->snapshot()));
  std::ranges::sort(by_heap, [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [tokens, index] : by_heap) {
    if (hot_tokens_ <= hot_limit_ / 2) break;
    const std::shared_lock merging(index->merge_mutex());
    const Parts inputs = HotParts(FreeParts(*index));
    if (!inputs.empty()) CLAMOR_RETURN_IF_ERROR(Merge(*index, inputs, /*to_file=*/true));
  }
  return absl::OkStatus();
}

absl::Status Compactor::Merge(NamespaceIndex& index, std::span<const Part> inputs, bool to_file) {
  if (LiveTokens(inputs) == 0) {
    const std::lock_guard lock(files_mu_);
    index.Replace(inputs, nullptr);
    return absl::OkStatus();
  }
  std::vector<Segment::Input> segments;
  for (const Part& part : inputs) segments.push_back({part.segment.get(), part.dead.get()});
  CLAMOR_ASSIGN_OR_RETURN(std::shared_ptr<const Segment> merged,
                          Segment::Merge(index.prefix(), segments, to_file ? NextFile() : "", stop_));
  const std::lock_guard lock(files_mu_);
  index.Replace(inputs, std::move(merged));
  return absl::OkStatus();
}

}  // namespace clamor::retrieval
