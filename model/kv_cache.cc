#include "model/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace clamor {
namespace {

// Address space is taken lazily by the kernel, so only its exhaustion can fail; there is nothing to serve
// with then.
std::byte* ReserveOrDie(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "cannot reserve %zu bytes of address space for the key/value cache\n", bytes);
    std::abort();
  }
  madvise(p, bytes, MADV_HUGEPAGE);  // a hint: failure only costs speed
  return static_cast<std::byte*>(p);
}

}  // namespace

KvLease::KvLease(KvLease&& other) noexcept { *this = std::move(other); }

KvLease& KvLease::operator=(KvLease&& other) noexcept {
  std::swap(cache_, other.cache_);
  std::swap(pages_, other.pages_);
  std::swap(shared_, other.shared_);
  std::swap(place_, other.place_);
  return *this;
}

KvLease::~KvLease() {
  if (cache_ != nullptr) cache_->Release(pages_);
}

size_t KvCache::BytesPerPage(const ModelConfig& config, kernels::KvFormat format) {
  return size_t{2} * config.layers * config.kv_heads * kernels::KvTileBytes(format, config.head_dim);
}

KvCache::KvCache(const ModelConfig& config, int64_t pages, kernels::KvFormat format)
    : kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      layers_(config.layers),
      format_(format),
      half_layer_bytes_(BytesPerPage(config, format) / 2 / config.layers * pages),
      memory_(ReserveOrDie(BytesPerPage(config, format) * pages)),
      leases_(pages),
      prefixes_(pages) {
  free_.reserve(pages);
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

KvCache::~KvCache() { munmap(memory_, size_t{2} * layers_ * half_layer_bytes_); }

KvLease KvCache::Find(std::string_view tenant, std::span<const int32_t> text) {
  KvLease lease;
  lease.cache_ = this;
  lease.place_ = prefixes_.Beginning(tenant);
  for (size_t end = kernels::kPageSize; end <= text.size(); end += kernels::kPageSize) {
    const auto tokens = text.first(end).last<kernels::kPageSize>();
    const PrefixIndex::Page found = prefixes_.Find(lease.place_, tokens);
    if (found.page == PrefixIndex::kNone) break;
    if (leases_[found.page]++ == 0) prefixes_.SetBusy(found.page);
    lease.pages_.push_back(found.page);
    lease.place_ = found.end;
  }
  lease.shared_ = static_cast<int64_t>(lease.pages_.size());
  return lease;
}

bool KvCache::Grow(KvLease& lease, int64_t tokens) {
  const int64_t wanted = PagesFor(tokens) - static_cast<int64_t>(lease.pages_.size());
  if (wanted > pages_free()) return false;
  lease.cache_ = this;
  for (int64_t i = 0; i < wanted; ++i) {
    if (free_.empty()) free_.push_back(prefixes_.Evict());
    lease.pages_.push_back(free_.back());
    leases_[free_.back()] = 1;
    free_.pop_back();
  }
  return true;
}

void KvCache::Shrink(KvLease& lease, int64_t tokens) {
  const size_t kept = std::min(lease.pages_.size(), static_cast<size_t>(PagesFor(tokens)));
  Release(std::span(lease.pages_).subspan(kept));
  lease.pages_.resize(kept);
}

void KvCache::Share(KvLease& lease, std::span<const int32_t> text) {
  const int64_t full = static_cast<int64_t>(text.size()) / kernels::kPageSize;
  for (; lease.shared_ < full; ++lease.shared_) {
    const auto tokens = text.subspan(lease.shared_ * kernels::kPageSize).first<kernels::kPageSize>();
    lease.place_ = prefixes_.Add(lease.place_, tokens, lease.pages_[lease.shared_]);
  }
}

// The last page first: see PrefixIndex::Evict.
void KvCache::Release(std::span<const int32_t> pages) {
  for (size_t i = pages.size(); i-- > 0;) {
    const int32_t page = pages[i];
    if (--leases_[page] > 0) continue;
    if (prefixes_.Knows(page)) {
      prefixes_.SetIdle(page);
    } else {
      free_.push_back(page);
    }
  }
}

void KvCache::Forget(std::string_view tenant) {
  const size_t page_bytes = half_layer_bytes_ / leases_.size();
  for (const int32_t page : prefixes_.Forget(tenant)) {
    for (int half = 0; half < 2 * layers_; ++half) {
      std::memset(
          memory_ + static_cast<size_t>(half) * half_layer_bytes_ + static_cast<size_t>(page) * page_bytes, 0,
          page_bytes);
    }
    free_.push_back(page);
  }
}

kernels::KvLayer KvCache::layer(int i) const {
  std::byte* keys = memory_ + size_t{2} * i * half_layer_bytes_;
  return {.keys = keys,
          .values = keys + half_layer_bytes_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .format = format_};
}

void KvCache::Move(int32_t from, int32_t to) {
  for (int i = 0; i < layers_; ++i) kernels::MoveKv(layer(i), from, to);
}

}  // namespace clamor
