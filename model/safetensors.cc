#include "model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/mapped_file.h"

namespace clamor {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian and read in place");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr uint64_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxShards = 4096;
constexpr uint64_t kAnySize = std::numeric_limits<uint64_t>::max();

struct Entry {
  size_t file = 0;    // of Rep::files
  std::string dtype;  // as written; may be one that Get refuses
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // in the file's data section
  const char* data = nullptr;   // once the whole header was checked
};

using TensorMap = std::map<std::string, Entry, std::less<>>;
using Metadata = std::map<std::string, std::string>;

std::optional<kernels::DType> SupportedDType(std::string_view name) {
  if (name == "F32") return kernels::DType::kF32;
  if (name == "BF16") return kernels::DType::kBF16;
  if (name == "F16") return kernels::DType::kF16;
  return std::nullopt;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::vector<int64_t>> ParseShape(const json& value, const std::string& where) {
  if (!value.is_array())
    return absl::InvalidArgumentError(absl::StrCat(where, "shape is ", Quote(value), ", not a list"));
  std::vector<int64_t> shape;
  for (const json& dim : value) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return absl::InvalidArgumentError(absl::StrCat(where, "shape holds ", Quote(dim), ", not a size"));
    }
    shape.push_back(dim.get<int64_t>());
  }
  return shape;
}

// `bytes` must be what dtype and shape need; dtypes we do not support are taken at their word.
absl::Status CheckBytes(const Entry& entry, const std::string& where) {
  const std::optional<kernels::DType> dtype = SupportedDType(entry.dtype);
  if (!dtype.has_value()) return absl::OkStatus();
  uint64_t needed = kernels::DTypeSize(*dtype);
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(needed, static_cast<uint64_t>(dim), &needed)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "shape ", ShapeText(entry.shape), " overflows 64 bits"));
    }
  }
  if (needed != entry.end - entry.begin) {
    return absl::InvalidArgumentError(absl::StrCat(where, entry.dtype, " of shape ", ShapeText(entry.shape),
                                                   " needs ", needed, " bytes, data_offsets span ",
                                                   entry.end - entry.begin));
  }
  return absl::OkStatus();
}

absl::StatusOr<Entry> ParseEntry(const json& value, const std::string& where) {
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (!value.is_object() || !value.contains(field)) {
      return absl::InvalidArgumentError(absl::StrCat(where, field, " is missing in ", Quote(value)));
    }
  }
  Entry entry;
  if (!value["dtype"].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, "dtype is ", Quote(value["dtype"]), ", not a string"));
  }
  entry.dtype = value["dtype"].get<std::string>();
  CLAMOR_ASSIGN_OR_RETURN(entry.shape, ParseShape(value["shape"], where));
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned() || offsets[0].get<uint64_t>() > offsets[1].get<uint64_t>()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, "data_offsets is ", Quote(offsets), ", not [begin, end]"));
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  CLAMOR_RETURN_IF_ERROR(CheckBytes(entry, where));
  return entry;
}

// The format leaves no gaps: tensors in order of offset touch each other and fill the `data_bytes` of the
// data section. A truncated file, overlaps and repeated names all show here.
absl::Status CheckCoverage(const TensorMap& tensors, uint64_t data_bytes, const std::string& path) {
  std::vector<const TensorMap::value_type*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t end = 0;
  for (const auto* tensor : order) {
    if (tensor->second.begin != end) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quote(tensor->first),
                                                     " begins at byte ", tensor->second.begin,
                                                     ", the one before it ends at ", end));
    }
    end = tensor->second.end;
  }
  if (end != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the header describes ", end,
                                                   " bytes of tensors, the file holds ", data_bytes,
                                                   end > data_bytes ? " (truncated)" : ""));
  }
  return absl::OkStatus();
}

// Readers must bear any metadata, so what is not text is no error.
void AddMetadata(const json& value, Metadata& metadata) {
  if (!value.is_object()) return;
  for (const auto& [key, text] : value.items()) {
    if (text.is_string()) metadata[key] = text.get<std::string>();
  }
}

// Layout of a file: u64 length of the header, the header (JSON: tensor name to dtype, shape, offsets), the
// data.
absl::StatusOr<TensorMap> ReadHeader(const MappedFile& file, Metadata& metadata) {
  const std::string_view bytes = file.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": has ", bytes.size(), " bytes, the header's length alone takes 8"));
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t limit = std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - sizeof(header_bytes));
  if (header_bytes > limit) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": the header's length is ", header_bytes,
                                                   ", must be at most ", limit, " in a file of ",
                                                   bytes.size()));
  }
  const std::string_view data = bytes.substr(sizeof(header_bytes) + header_bytes);
  CLAMOR_ASSIGN_OR_RETURN(const json header,
                          ParseJson(bytes.substr(sizeof(header_bytes), header_bytes), file.path()));
  if (!header.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": the header is ", Quote(header), ", not an object"));
  }
  TensorMap tensors;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      AddMetadata(value, metadata);
      continue;
    }
    CLAMOR_ASSIGN_OR_RETURN(Entry entry,
                            ParseEntry(value, absl::StrCat(file.path(), ": tensor ", Quote(name), ": ")));
    tensors.emplace(name, std::move(entry));
  }
  CLAMOR_RETURN_IF_ERROR(CheckCoverage(tensors, data.size(), file.path()));
  for (auto& [name, entry] : tensors) entry.data = data.data() + entry.begin;
  return tensors;
}

// The index: tensor name to the shard, a file beside it, that holds the tensor.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const MappedFile& file) {
  CLAMOR_ASSIGN_OR_RETURN(const json index, ParseJson(file.bytes(), file.path()));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": weight_map is missing or not an object"));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    // Nothing but a plain name: an index must not make us open files elsewhere.
    if (!shard.is_string() || !absl::EndsWith(shard.get<std::string>(), ".safetensors") ||
        shard.get<std::string>().find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(file.path(), ": weight_map: ", Quote(name), " is in ",
                                                     Quote(shard),
                                                     ", not the plain name of a .safetensors file"));
    }
    shard_of.emplace(name, shard.get<std::string>());
  }
  return shard_of;
}

}  // namespace

struct Safetensors::Rep {
  std::string dir;  // or the one file; for messages
  std::vector<MappedFile> files;
  TensorMap tensors;
  Metadata metadata;
  uint64_t total_bytes = 0;

  absl::Status Add(MappedFile file);
  absl::Status AddShards(const MappedFile& index);
};

absl::Status Safetensors::Rep::Add(MappedFile file) {
  CLAMOR_ASSIGN_OR_RETURN(TensorMap added, ReadHeader(file, metadata));
  for (auto& [name, entry] : added) {
    entry.file = files.size();
    total_bytes += entry.end - entry.begin;
    if (const auto it = tensors.find(name); it != tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quote(name), " is in both ",
                                                     files[it->second.file].path(), " and ", file.path()));
    }
  }
  tensors.merge(added);
  files.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Safetensors::Rep::AddShards(const MappedFile& index) {
  CLAMOR_ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(index));
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  if (shards.empty() || shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat(index.path(), ": weight_map names ", shards.size(),
                                                   " files, must be 1 to ", kMaxShards));
  }
  for (const std::string& shard : shards) {
    CLAMOR_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(absl::StrCat(dir, "/", shard), kAnySize));
    CLAMOR_RETURN_IF_ERROR(Add(std::move(file)));
  }
  for (const auto& [name, shard] : shard_of) {
    const std::string path = absl::StrCat(dir, "/", shard);
    const auto it = tensors.find(name);
    if (it == tensors.end() || files[it->second.file].path() != path) {
      return absl::InvalidArgumentError(absl::StrCat(
          index.path(), ": weight_map says that tensor ", Quote(name), " is in ", path, ", it is ",
          it == tensors.end() ? "nowhere" : absl::StrCat("in ", files[it->second.file].path())));
    }
  }
  return absl::OkStatus();
}

Safetensors::Safetensors(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Safetensors::~Safetensors() = default;

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::Open(const std::string& model_dir) {
  auto rep = std::make_unique<Rep>();
  rep->dir = model_dir;
  absl::StatusOr<MappedFile> file = MappedFile::Open(absl::StrCat(model_dir, "/model.safetensors"), kAnySize);
  if (file.ok()) {
    CLAMOR_RETURN_IF_ERROR(rep->Add(*std::move(file)));
  } else if (absl::IsNotFound(file.status())) {
    file = MappedFile::Open(absl::StrCat(model_dir, "/model.safetensors.index.json"), kMaxIndexBytes);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(
          absl::StrCat(model_dir, ": has neither model.safetensors nor model.safetensors.index.json"));
    }
    if (!file.ok()) return file.status();
    CLAMOR_RETURN_IF_ERROR(rep->AddShards(*file));
  } else {
    return file.status();
  }
  return std::unique_ptr<Safetensors>(new Safetensors(std::move(rep)));
}

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::OpenFile(const std::string& path) {
  auto rep = std::make_unique<Rep>();
  rep->dir = path;
  CLAMOR_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path, kAnySize));
  CLAMOR_RETURN_IF_ERROR(rep->Add(std::move(file)));
  return std::unique_ptr<Safetensors>(new Safetensors(std::move(rep)));
}

absl::StatusOr<Tensor> Safetensors::Get(std::string_view name, const std::vector<int64_t>& shape) const {
  const auto it = rep_->tensors.find(name);
  if (it == rep_->tensors.end()) {
    return absl::NotFoundError(absl::StrCat(rep_->dir, ": has no tensor ", Quote(std::string(name))));
  }
  const Entry& entry = it->second;
  const std::string& file = rep_->files[entry.file].path();
  const std::optional<kernels::DType> dtype = SupportedDType(entry.dtype);
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quote(it->first), " has dtype ",
                                                   Quote(entry.dtype), ", supported are F32, BF16 and F16"));
  }
  if (entry.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quote(it->first), " has shape ",
                                                   ShapeText(entry.shape), ", the config asks for ",
                                                   ShapeText(shape)));
  }
  return Tensor{.name = it->first,
                .file = file,
                .dtype = *dtype,
                .shape = shape,
                .data = entry.data,
                .bytes = entry.end - entry.begin};
}

bool Safetensors::Contains(std::string_view name) const { return rep_->tensors.contains(name); }

std::vector<std::string> Safetensors::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : rep_->tensors) names.push_back(name);
  return names;
}

uint64_t Safetensors::total_bytes() const { return rep_->total_bytes; }

const std::map<std::string, std::string>& Safetensors::metadata() const { return rep_->metadata; }

void Safetensors::Release(const Tensor& tensor) const {
  ReleasePages({static_cast<const char*>(tensor.data), tensor.bytes});
}

}  // namespace clamor
