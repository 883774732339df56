#include "model/kv_cache.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace clamor {
namespace {

// Address space is taken lazily by the kernel, so only its exhaustion can fail; there is nothing to serve
// with then.
float* ReserveOrDie(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "cannot reserve %zu bytes of address space for the key/value cache\n", bytes);
    std::abort();
  }
  return static_cast<float*>(p);
}

}  // namespace

KvLease::KvLease(KvLease&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), pages_(std::move(other.pages_)) {
  other.pages_.clear();
}

KvLease& KvLease::operator=(KvLease&& other) noexcept {
  std::swap(cache_, other.cache_);
  std::swap(pages_, other.pages_);
  return *this;
}

KvLease::~KvLease() {
  if (cache_ != nullptr) cache_->free_.insert(cache_->free_.end(), pages_.rbegin(), pages_.rend());
}

size_t KvCache::BytesPerPage(const ModelConfig& config) {
  return size_t{2} * config.layers * config.kv_size() * kernels::kPageSize * sizeof(float);
}

KvCache::KvCache(const ModelConfig& config, int64_t pages)
    : kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      layers_(config.layers),
      pages_total_(pages),
      layer_floats_(static_cast<size_t>(pages) * config.kv_size() * kernels::kPageSize),
      memory_(ReserveOrDie(BytesPerPage(config) * pages)) {
  free_.reserve(pages);
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

KvCache::~KvCache() { munmap(memory_, size_t{2} * layers_ * layer_floats_ * sizeof(float)); }

std::optional<KvLease> KvCache::Lease(int64_t tokens) {
  const int64_t pages = PagesFor(tokens);
  if (pages > static_cast<int64_t>(free_.size())) return std::nullopt;
  KvLease lease;
  lease.cache_ = this;
  lease.pages_.assign(free_.rbegin(), free_.rbegin() + pages);
  free_.resize(free_.size() - pages);
  return lease;
}

kernels::KvLayer KvCache::layer(int i) const {
  float* keys = memory_ + size_t{2} * i * layer_floats_;
  return {.keys = keys, .values = keys + layer_floats_, .kv_heads = kv_heads_, .head_dim = head_dim_};
}

void KvCache::Move(int32_t from, int32_t to) {
  for (int i = 0; i < layers_; ++i) kernels::MoveKv(layer(i), from, to);
}

}  // namespace clamor
