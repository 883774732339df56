#include "model/cuda/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"

namespace clamor {
namespace {

std::string PathOfLibrary() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = program.parent_path() / kCudaLibraryName;
  return !error && std::filesystem::exists(beside, error) ? beside.string() : kCudaLibraryName;
}

std::string LastError() {
  const char* const error = dlerror();
  return error != nullptr ? error : "no such function";
}

template <class F>
absl::StatusOr<F*> Find(void* library, const char* name) {
  void* const function = dlsym(library, name);
  if (function == nullptr) return absl::UnavailableError(LastError());
  return reinterpret_cast<F*>(function);
}

// Never closed: models hold code of it.
absl::StatusOr<void*> Open() {
  void* const library = dlopen(PathOfLibrary().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::UnavailableError(LastError());
  CLAMOR_ASSIGN_OR_RETURN(const auto version, Find<CudaVersionFunction>(library, "clamor_cuda_version"));
  if (std::string_view(version()) != CLAMOR_VERSION) {
    return absl::UnavailableError(
        absl::StrCat(kCudaLibraryName, " is of version ", version(), ", this program of ", CLAMOR_VERSION));
  }
  return library;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadCudaModel(const std::string& model_dir, int32_t max_positions,
                                                     const DeviceOptions& options,
                                                     Weights::Progress progress) {
  static const absl::StatusOr<void*>& library = *new absl::StatusOr<void*>(Open());
  CLAMOR_RETURN_IF_ERROR(library.status());
  CLAMOR_ASSIGN_OR_RETURN(const auto devices, Find<CudaDevicesFunction>(*library, "clamor_cuda_devices"));
  CLAMOR_ASSIGN_OR_RETURN(const auto load, Find<CudaLoadFunction>(*library, "clamor_cuda_load"));
  const int there = devices(), wanted = static_cast<int>(options.devices.size());
  if (there == 0) return absl::UnavailableError("there is no GPU, or no driver for it");
  if (there < wanted) {
    return absl::UnavailableError(
        absl::StrCat("there are ", there, " GPUs, the model is to run on ", wanted));
  }
  CudaLoad request = {.model_dir = model_dir,
                      .max_positions = max_positions,
                      .options = options,
                      .progress = progress,
                      .result = absl::UnknownError("nothing loaded")};
  load(&request);
  return std::move(request.result);
}

absl::StatusOr<void*> CudaFunction(const char* name) {
  CLAMOR_ASSIGN_OR_RETURN(void* const library, Open());  // the loader knows what is open
  CLAMOR_ASSIGN_OR_RETURN(const auto devices, Find<CudaDevicesFunction>(library, "clamor_cuda_devices"));
  if (devices() == 0) return absl::UnavailableError("there is no GPU, or no driver for it");
  CLAMOR_ASSIGN_OR_RETURN(const auto function, Find<void()>(library, name));
  return reinterpret_cast<void*>(function);
}

}  // namespace clamor
