#include "model/train/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/checked_json.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"
#include "model/sha256.h"

namespace clamor {
namespace {

using nlohmann::json;

// Keys of the file's metadata.
constexpr char kState[] = "state";    // JSON: step and the trainer's state
constexpr char kDigest[] = "sha256";  // of that text and then of all tensors, in the order of FileTensors

// The three arrays in the file's order, as one list of tensors.
std::vector<TensorShape> FileTensors(const ParameterTable& table) {
  std::vector<TensorShape> tensors;
  for (const char* array : {"parameter.", "first_moment.", "second_moment."}) {
    for (const TensorShape& t : table.tensors()) tensors.push_back({absl::StrCat(array, t.name), t.shape});
  }
  return tensors;
}

// Where the tensor at `index` of that list lies.
template <typename T>
std::span<T> FileSlice(const ParameterTable& table, const TrainingArrays<T>& arrays, size_t index) {
  const std::array<std::span<T>, 3> each = {arrays.parameters, arrays.first_moments, arrays.second_moments};
  const size_t count = table.tensors().size();
  return table.Slice(each[index / count], index % count);
}

std::string PathOf(const std::string& dir, int64_t step) {
  return absl::StrCat(dir, "/checkpoint-", step, ".safetensors");
}

// Steps of the checkpoints of `dir`, newest first; with `suffix`, those of their temporary files.
absl::StatusOr<std::vector<int64_t>> StepsOf(const std::string& dir, absl::string_view suffix) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    absl::string_view digits = name;
    int64_t step;
    // Only the very name that we write: "+7" and "007" are somebody else's.
    if (absl::ConsumePrefix(&digits, "checkpoint-") && absl::ConsumeSuffix(&digits, suffix) &&
        absl::ConsumeSuffix(&digits, ".safetensors") && absl::SimpleAtoi(digits, &step) && step >= 0 &&
        digits == absl::StrCat(step)) {
      steps.push_back(step);
    }
  }
  if (error) return absl::ErrnoToStatus(error.value(), dir);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// Reads one file; `arrays` are touched only if all is well.
absl::StatusOr<json> Load(const std::string& dir, int64_t step, const ParameterTable& table,
                          const TrainingArrays<float>& arrays) {
  const std::string path = PathOf(dir, step);
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> file, Safetensors::OpenFile(path));
  const std::vector<TensorShape> wanted = FileTensors(table);
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors, FindTensors(*file, path, wanted, false));
  for (const Tensor& tensor : tensors) {
    if (tensor.dtype != kernels::DType::kF32) {
      return Damaged(path, absl::StrCat("tensor ", Quote(tensor.name), " is not F32"));
    }
  }
  const auto text = file->metadata().find(kState), digest = file->metadata().find(kDigest);
  if (text == file->metadata().end() || digest == file->metadata().end()) {
    return Damaged(path, "has no state or no sha256: not a checkpoint");
  }
  Sha256 sha256;
  sha256.Add(text->second);
  for (const Tensor& tensor : tensors) {
    sha256.Add({static_cast<const char*>(tensor.data), tensor.bytes});
    file->Release(tensor);
  }
  if (const std::string actual = sha256.Hex(); actual != digest->second) {
    return Damaged(path, absl::StrCat("its content has the SHA-256 ", actual, ", it says ",
                                      Quote(digest->second), " (damaged)"));
  }
  CLAMOR_ASSIGN_OR_RETURN(json state, ParseJson(text->second, path));
  if (!state.is_object() || !state.contains("step") || state["step"] != step || !state.contains("state")) {
    return Damaged(path, absl::StrCat("its state is ", Quote(state), ", not that of step ", step));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::memcpy(FileSlice(table, arrays, i).data(), tensors[i].data, tensors[i].bytes);
    file->Release(tensors[i]);
  }
  return std::move(state["state"]);
}

// What a killed process left; under its lock, so not what another one is writing.
absl::Status RemoveLeftovers(const std::string& dir) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, StepsOf(dir, ".partial"));
  for (const int64_t step : steps) AtomicFile::Create(PathOf(dir, step), 0).status().IgnoreError();
  return absl::OkStatus();
}

absl::Status RemoveAllBut(const std::string& dir, int64_t step) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, StepsOf(dir, ""));
  const auto before = std::upper_bound(steps.begin(), steps.end(), step, std::greater<>());
  for (auto it = steps.begin(); it != steps.end(); ++it) {
    if (*it == step || it == before) continue;
    const std::string path = PathOf(dir, *it);
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return absl::ErrnoToStatus(errno, path);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SaveCheckpoint(const std::string& dir, const ParameterTable& table, int64_t step,
                            const json& state, const TrainingArrays<const float>& arrays) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(dir, ": cannot create"));
  CLAMOR_RETURN_IF_ERROR(RemoveLeftovers(dir));

  const std::vector<TensorShape> tensors = FileTensors(table);
  const std::string text =
      json{{"step", step}, {"state", state}}.dump(-1, ' ', true, json::error_handler_t::replace);
  Sha256 sha256;
  sha256.Add(text);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::span<const float> values = FileSlice(table, arrays, i);
    sha256.Add({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
  }
  CLAMOR_RETURN_IF_ERROR(WriteSafetensors(PathOf(dir, step), tensors, kernels::DType::kF32,
                                          {{kState, text}, {kDigest, sha256.Hex()}},
                                          [&](size_t i) { return FileSlice(table, arrays, i); }));
  return RemoveAllBut(dir, step);
}

absl::StatusOr<LoadedCheckpoint> LoadNewestCheckpoint(const std::string& dir, const ParameterTable& table,
                                                      const TrainingArrays<float>& arrays) {
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<int64_t> steps, StepsOf(dir, ""));
  if (steps.empty()) return absl::NotFoundError(absl::StrCat(dir, ": has no checkpoint-*.safetensors"));
  LoadedCheckpoint loaded;
  for (const int64_t step : steps) {
    absl::StatusOr<json> state = Load(dir, step, table, arrays);
    if (state.ok()) {
      loaded.step = step;
      loaded.state = *std::move(state);
      return loaded;
    }
    loaded.skipped.emplace_back(state.status().message());
  }
  return absl::DataLossError(
      absl::StrCat(dir, ": no checkpoint can be used: ", absl::StrJoin(loaded.skipped, "; ")));
}

}  // namespace clamor
