// Files for the tests of this folder: temporary model directories, a writer of safetensors, and a dull reader
// that believes everything, the twin of model/safetensors.h.
#pragma once

#include <stdlib.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace clamor::test {

inline std::string Testdata(const std::string& name) { return std::string(CLAMOR_TESTDATA) + "/" + name; }

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
  ASSERT_TRUE(out.flush().good()) << path;
}

// Removed with all that is in it at the end.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "checkpoint_test.XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  // A copy of a folder of tests/testdata.
  explicit TempDir(const std::string& testdata) : TempDir() {
    std::filesystem::copy(Testdata(testdata), path_);
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  std::string path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A file of the format: length, header, data. `header` need not be JSON.
inline std::string SafetensorsFile(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;

  int64_t size() const { return static_cast<int64_t>(bytes.size()) / (dtype == "F32" ? 4 : 2); }
  // Element i, from the definition of its format.
  float operator[](int64_t i) const {
    if (dtype == "F32") {
      float value;
      std::memcpy(&value, bytes.data() + 4 * i, 4);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    const int mantissa_bits = dtype == "BF16" ? 7 : 10, bias = dtype == "BF16" ? 127 : 15;
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                      : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    return static_cast<float>(bits & 0x8000 ? -magnitude : magnitude);
  }
};

using RawTensors = std::map<std::string, RawTensor>;

// All tensors of all *.safetensors of `dir`.
inline RawTensors ReadRawTensors(const std::string& dir) {
  RawTensors tensors;
  for (const auto& file : std::filesystem::directory_iterator(dir)) {
    if (file.path().extension() != ".safetensors") continue;
    const std::string bytes = ReadFile(file.path());
    uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
      tensors[name] = {entry["dtype"], entry["shape"], bytes.substr(8 + length + begin, end - begin)};
    }
  }
  return tensors;
}

// One file that holds `tensors` in order of name; `pad` blanks after the header move the data.
inline std::string WriteRawTensors(const RawTensors& tensors, int pad = 0) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return SafetensorsFile(header.dump() + std::string(pad, ' '), data);
}

}  // namespace clamor::test
