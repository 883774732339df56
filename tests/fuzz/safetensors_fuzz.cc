// A safetensors file of any bytes is refused, or every byte of every tensor can be read.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "model/safetensors.h"
#include "tests/fuzz/fuzz_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string& path = clamor::FuzzFile({reinterpret_cast<const char*>(data), size});
  const auto file = clamor::Safetensors::OpenFile(path);
  if (!file.ok()) {
    if (!absl::IsInvalidArgument(file.status())) std::abort();
    return 0;
  }
  uint64_t bytes = 0;
  for (const std::string& name : (*file)->Names()) {
    // Asked for with a wrong shape it is refused, and the message does not harm.
    if ((*file)->Get(name, {1, 1, 1, 1, 1, 1, 1}).ok() && size < 8) std::abort();
    for (const auto& shape : {std::vector<int64_t>{}, {0}, {1}, {2}, {4}, {2, 2}}) {
      const auto tensor = (*file)->Get(name, shape);
      if (!tensor.ok()) continue;
      const auto* at = static_cast<const volatile uint8_t*>(tensor->data);
      // Mapped files end with their page: what is beyond the file's own end must not be handed out.
      for (size_t i = 0; i < tensor->bytes; ++i) bytes += at[i] != 0;
      if (tensor->bytes > size) std::abort();
    }
  }
  // Length of the header, header, tensors: the format leaves no gaps.
  uint64_t header = 0;
  std::memcpy(&header, data, sizeof(header));
  if (sizeof(header) + header + (*file)->total_bytes() != size || bytes > size * 6) std::abort();
  return 0;
}
