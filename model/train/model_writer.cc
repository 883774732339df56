#include "model/train/model_writer.h"

#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/checked_json.h"
#include "model/mapped_file.h"

namespace clamor {
namespace {

using kernels::DType;
using nlohmann::json;

// All that transformers may read beside config and tensors.
constexpr const char* kCompanions[] = {
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
};
constexpr uint64_t kMaxCompanionBytes = 256 << 20;
constexpr uint64_t kMaxConfigBytes = 4 << 20;

absl::Status CopyCompanions(const std::string& from, const std::string& to) {
  for (const char* name : kCompanions) {
    const absl::StatusOr<MappedFile> file =
        MappedFile::Open(absl::StrCat(from, "/", name), kMaxCompanionBytes);
    if (absl::IsNotFound(file.status())) continue;
    if (!file.ok()) return file.status();
    CLAMOR_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(to, "/", name), file->bytes()));
  }
  return absl::OkStatus();
}

// transformers called the field `torch_dtype` up to 4.55 and `dtype` since, and reads the older name still.
absl::StatusOr<std::string> ConfigFor(DType dtype, const std::string& source_dir) {
  const std::string path = absl::StrCat(source_dir, "/config.json");
  CLAMOR_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, kMaxConfigBytes));
  CLAMOR_ASSIGN_OR_RETURN(json config, ParseJson(file.bytes(), path));
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is ", Quote(config), ", not an object"));
  }
  const char* name = dtype == DType::kF32 ? "float32" : "bfloat16";
  if (config.contains("dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = name;
  return absl::StrCat(config.dump(2), "\n");
}

}  // namespace

absl::Status WriteModel(const std::string& model_dir, const std::string& source_dir,
                        const ParameterTable& table, DType dtype, TensorValues values) {
  CLAMOR_ASSIGN_OR_RETURN(const std::string config, ConfigFor(dtype, source_dir));
  std::error_code error;
  std::filesystem::create_directories(model_dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(model_dir, ": cannot create"));
  CLAMOR_RETURN_IF_ERROR(WriteSafetensors(absl::StrCat(model_dir, "/model.safetensors"), table.tensors(),
                                          dtype, {{"format", "pt"}}, values));
  CLAMOR_RETURN_IF_ERROR(CopyCompanions(source_dir, model_dir));
  return WriteFileAtomically(absl::StrCat(model_dir, "/config.json"), config);
}

}  // namespace clamor
