// Memory that a thread keeps for its next call: a step allocates nothing once the largest shapes have been
// seen.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace clamor::kernels {

class Scratch {
 public:
  // `count` floats at a multiple of 64 bytes, contents undefined; whatever Get returned before is gone.
  float* Get(size_t count) {
    if (count > capacity_) {
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(count * sizeof(float), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<float, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace clamor::kernels
