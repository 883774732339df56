// Read access to the tensors of a model directory: `model.safetensors`, or the shards that
// `model.safetensors.index.json` lists. Files are mapped, not read; a header is believed only after every
// offset, shape and size was checked.
//
// Immutable after Open; every method may be called from any thread.
// Tested by tests/model/checkpoint/safetensors_test.cc.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/matmul.h"

namespace clamor {

// A view into a mapped file; valid as long as its Safetensors.
struct Tensor {
  std::string name;
  std::string file;  // path, for messages
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;
};

class Safetensors {
 public:
  // NOT_FOUND: no such files. INVALID_ARGUMENT: a damaged, truncated or contradictory file or index; names
  // file, tensor and both numbers.
  static absl::StatusOr<std::unique_ptr<Safetensors>> Open(const std::string& model_dir);
  static absl::StatusOr<std::unique_ptr<Safetensors>> OpenFile(const std::string& path);
  ~Safetensors();

  // NOT_FOUND if absent; INVALID_ARGUMENT if its shape is not `shape` (names tensor, file and both shapes).
  absl::StatusOr<Tensor> Get(std::string_view name, const std::vector<int64_t>& shape) const;
  bool Contains(std::string_view name) const;
  std::vector<std::string> Names() const;  // sorted
  uint64_t total_bytes() const;            // of all tensors
  // What `__metadata__` of the files says; values that are not text are left out.
  const std::map<std::string, std::string>& metadata() const;

  // Tells the kernel that the pages of `tensor` are not needed again soon, so that loading peaks at what is
  // packed.
  void Release(const Tensor& tensor) const;

 private:
  struct Rep;
  explicit Safetensors(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace clamor
