#include "services/worker/loaded_model.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu_target.h"
#include "kernels/status_macros.h"
#include "model/cuda/cuda_library.h"
#include "model/sha256.h"

namespace clamor {
namespace {

absl::Status CheckDevice(const std::string& device) {
  if (device == "auto" || device == "cpu" || device == "cuda") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--device is '", device, "', must be auto, cpu or cuda"));
}

absl::StatusOr<bool> IsExact(const std::string& numerics) {
  if (numerics == "exact" || numerics == "fast") return numerics == "exact";
  return absl::InvalidArgumentError(absl::StrCat("--numerics is '", numerics, "', must be exact or fast"));
}

// The CUDA back end holds the cache in bf16 alone, and weights that are stored otherwise in bf16.
WeightFormat OnDevice(WeightFormat format) {
  return format == WeightFormat::kStored ? WeightFormat::kBF16 : format;
}
absl::StatusOr<std::unique_ptr<Model>> LoadOnDevice(const ModelOptions& options, WeightFormat format,
                                                    kernels::KvFormat kv, Weights::Progress progress) {
  if (!options.may_be_on_device) {
    return absl::UnavailableError("this command runs without CUDA; clamor-worker can use it");
  }
  if (format == WeightFormat::kF32 || format == WeightFormat::kF16) {
    return absl::UnavailableError(
        absl::StrCat("--weights is ", options.weights, ", CUDA knows stored, bf16, int8 and int4"));
  }
  if (kv == kernels::KvFormat::kInt8) {
    return absl::UnavailableError("--kv is int8, on CUDA keys and values are bf16");
  }
  CLAMOR_ASSIGN_OR_RETURN(const bool exact, IsExact(options.numerics));
  DeviceOptions device = {
      .weights = OnDevice(format), .exact = exact, .devices = {}, .shards = options.shards};
  for (int32_t i = 0; i < options.gpus; ++i) device.devices.push_back(i);
  return LoadCudaModel(options.directory, options.context, device, progress);
}

std::string ReadWord(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// Cores' worth of time per second that the cgroup grants; more threads than that would only be throttled.
double CgroupCores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (file >> quota >> period && quota > 0 && period > 0) return quota / period;
  return INFINITY;  // "max", or no such file
}

// Evenly spaced, the file's beginning and end included.
absl::Status AddPieces(const std::filesystem::path& path, Sha256& hash) {
  constexpr int64_t kPieces = 256, kBytes = 4096;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const int64_t size = file ? static_cast<int64_t>(file.tellg()) : -1;
  if (size < 0) return absl::NotFoundError(absl::StrCat(path.string(), ": cannot read"));
  hash.Add(absl::StrCat(path.filename().string(), " ", size, "\n"));
  const int64_t last = std::max<int64_t>(0, size - kBytes);
  std::string piece(kBytes, '\0');
  for (int64_t i = 0; i < kPieces; ++i) {
    file.seekg(last * i / (kPieces - 1));
    file.read(piece.data(), std::min(kBytes, size));
    if (file.gcount() != std::min(kBytes, size))
      return absl::DataLossError(absl::StrCat(path.string(), ": cannot read"));
    hash.Add(std::string_view(piece.data(), static_cast<size_t>(file.gcount())));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ModelName(const std::string& directory) {
  std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::string name = path.filename().string();
  return name.empty() || name == "." ? "model" : name;
}

absl::StatusOr<std::string> ModelRevision(const std::string& directory, const std::string& held) {
  std::set<std::filesystem::path> files;  // in order
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::filesystem::path extension = entry.path().extension();
    if (extension == ".safetensors" || extension == ".json") files.insert(entry.path());
  }
  if (error) return absl::NotFoundError(absl::StrCat(directory, ": cannot list: ", error.message()));
  Sha256 hash;
  hash.Add(held);
  for (const auto& path : files) CLAMOR_RETURN_IF_ERROR(AddPieces(path, hash));
  return hash.Hex().substr(0, 16);
}

std::string HeldAs(const LoadedModel& model) {
  return absl::StrCat(model.stored_as, ", keys and values ",
                      std::string(kernels::KvFormatName(model.kv_format)),
                      model.on_device != nullptr ? ", on " + model.on_device->device() : "");
}

int PhysicalCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string siblings =
        ReadWord(absl::StrFormat("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu));
    cores.insert(siblings.empty() ? absl::StrCat(cpu) : siblings);
  }
  const double quota = std::ceil(CgroupCores());
  return std::max(1, static_cast<int>(std::min<double>(cores.size(), quota)));
}

int64_t PeakMemoryBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

absl::StatusOr<LoadedModel> LoadTokenizer(const std::string& directory) {
  LoadedModel model;
  model.name = ModelName(directory);
  CLAMOR_ASSIGN_OR_RETURN(model.files, TokenizerFiles::Read(directory));
  CLAMOR_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(model.files));
  auto chat_template = ChatTemplate::Load(model.files, model.tokenizer.get());
  if (chat_template.ok()) {
    model.chat_template = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return model;
}

absl::StatusOr<LoadedModel> LoadModel(const ModelOptions& options, Weights::Progress progress) {
  const absl::Time start = absl::Now();
  CLAMOR_RETURN_IF_ERROR(CheckDevice(options.device));
  CLAMOR_RETURN_IF_ERROR(IsExact(options.numerics).status());
  const absl::StatusOr<WeightFormat> format = ParseWeightFormat(options.weights);
  if (!format.ok())
    return absl::Status(format.status().code(), absl::StrCat("--weights: ", format.status().message()));
  const absl::StatusOr<kernels::KvFormat> kv_format = kernels::ParseKvFormat(options.kv);
  if (!kv_format.ok())
    return absl::Status(kv_format.status().code(), absl::StrCat("--kv: ", kv_format.status().message()));
  CLAMOR_ASSIGN_OR_RETURN(LoadedModel model, LoadTokenizer(options.directory));
  model.kv_format = *kv_format;
  model.threads = options.threads > 0 ? options.threads : PhysicalCores();
  if (options.device != "cpu") {
    auto on_device = LoadOnDevice(options, *format, *kv_format, progress);
    if (on_device.ok()) {
      model.on_device = *std::move(on_device);
      model.stored_as = WeightFormatName(OnDevice(*format));
      model.kv_format = kernels::KvFormat::kBF16;
      model.load_seconds = absl::ToDoubleSeconds(absl::Now() - start);
      return model;
    }
    if (options.device == "cuda") {
      return absl::Status(on_device.status().code(),
                          absl::StrCat("--device cuda: CUDA cannot be used: ", on_device.status().message(),
                                       "; use cpu or auto"));
    }
    model.no_device = std::string(on_device.status().message());
  }
  kernels::ThreadPool pool(model.threads);
  CLAMOR_ASSIGN_OR_RETURN(model.transformer, Transformer::Load(options.directory, *format, options.context,
                                                               pool, progress, options.packed_weights));
  model.packed_weights = options.packed_weights;
  model.stored_as = *format == WeightFormat::kStored
                        ? kernels::StorageName(model.transformer->weights().embedding.stored())
                        : WeightFormatName(*format);
  model.load_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return model;
}

std::string DescribeLoad(const LoadedModel& model) {
  constexpr double kMiB = 1024.0 * 1024.0;
  std::string from, file;
  switch (model.on_device != nullptr ? PackedFileUse::kNone : model.transformer->weights().packed_file) {
    case PackedFileUse::kNone:
      break;
    case PackedFileUse::kRead:
      from = absl::StrCat(" from ", model.packed_weights);
      break;
    case PackedFileUse::kWritten:
      file = absl::StrCat("; wrote ", model.packed_weights);
      break;
    case PackedFileUse::kLeft:
      file = absl::StrCat("; ", model.packed_weights, " is being written by another process");
      break;
  }
  return absl::StrFormat("%s: %.1f MiB of %s weights%s in %.2f s, peak memory %.1f MiB, %s, %d thread%s%s",
                         model.name, model.model().weight_bytes() / kMiB, model.stored_as, from,
                         model.load_seconds, PeakMemoryBytes() / kMiB,
                         model.on_device != nullptr ? model.on_device->device()
                                                    : kernels::CpuTargetName(kernels::ActiveCpuTarget()),
                         model.threads, model.threads == 1 ? "" : "s", file);
}

}  // namespace clamor
