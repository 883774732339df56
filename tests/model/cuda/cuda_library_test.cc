// The CUDA back end where it is not: built without, or on a machine without a GPU.
#include "model/cuda/cuda_library.h"

#include "gtest/gtest.h"

namespace clamor {
namespace {

TEST(CudaLibraryTest, SaysWhyItCannotBeUsed) {
  const auto model =
      LoadCudaModel(std::string(CLAMOR_TESTDATA) + "/tiny-llama", 0, {}, [](uint64_t, uint64_t) {});
  if (model.ok()) GTEST_SKIP() << "there is a GPU";
  EXPECT_TRUE(absl::IsUnavailable(model.status())) << model.status();
  // The library that is missing, or what is missing behind it.
  const std::string message(model.status().message());
  EXPECT_TRUE(message.find("lib") != std::string::npos || message.find("GPU") != std::string::npos)
      << message;
  const auto again =
      LoadCudaModel(std::string(CLAMOR_TESTDATA) + "/tiny-llama", 0, {}, [](uint64_t, uint64_t) {});
  EXPECT_EQ(again.status(), model.status());
}

}  // namespace
}  // namespace clamor
