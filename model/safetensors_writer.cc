#include "model/safetensors_writer.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/float_formats.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "nlohmann/json.hpp"

namespace clamor {
namespace {

using kernels::DType;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

uint64_t Elements(const TensorShape& tensor) {
  uint64_t elements = 1;
  for (const int64_t dim : tensor.shape) elements *= static_cast<uint64_t>(dim);
  return elements;
}

template <typename T>
std::string_view Bytes(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

struct Header {
  std::string bytes;  // its length first
  uint64_t data_bytes = 0;
};

Header MakeHeader(std::span<const TensorShape> tensors, DType dtype,
                  const std::map<std::string, std::string>& metadata) {
  json entries = json::object();
  if (!metadata.empty()) entries["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const TensorShape& tensor : tensors) {
    const uint64_t begin = end;
    end += Elements(tensor) * kernels::DTypeSize(dtype);
    entries[tensor.name] = {{"dtype", dtype == DType::kF32 ? "F32" : "BF16"},
                            {"shape", tensor.shape},
                            {"data_offsets", {begin, end}}};
  }
  std::string text = entries.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  const uint64_t length = text.size();
  return {.bytes = std::string(Bytes(std::span(&length, 1))) + text, .data_bytes = end};
}

absl::Status AppendAsBF16(std::span<const float> values, AtomicFile& file) {
  constexpr size_t kChunk = 128 << 10;
  std::vector<uint16_t> chunk(std::min(kChunk, values.size()));
  while (!values.empty()) {
    const size_t count = std::min(kChunk, values.size());
    for (size_t i = 0; i < count; ++i) chunk[i] = kernels::ToBF16(values[i]);
    CLAMOR_RETURN_IF_ERROR(file.Append(Bytes(std::span<const uint16_t>(chunk).first(count))));
    values = values.subspan(count);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, std::span<const TensorShape> tensors, DType dtype,
                              const std::map<std::string, std::string>& metadata, TensorValues values) {
  assert(dtype == DType::kF32 || dtype == DType::kBF16);
  const Header header = MakeHeader(tensors, dtype, metadata);
  CLAMOR_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path, header.bytes.size() + header.data_bytes));
  CLAMOR_RETURN_IF_ERROR(file.Append(header.bytes));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::span<const float> tensor = values(i);
    assert(tensor.size() == Elements(tensors[i]));
    CLAMOR_RETURN_IF_ERROR(dtype == DType::kF32 ? file.Append(Bytes(tensor)) : AppendAsBF16(tensor, file));
  }
  return file.Commit();
}

}  // namespace clamor
