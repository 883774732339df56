#include "model/weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/model_tensors.h"
#include "model/packed_file.h"
#include "model/safetensors.h"

namespace clamor {
namespace {

using kernels::DType;
using kernels::PackedMatrix;
using kernels::Storage;

constexpr std::pair<std::string_view, WeightFormat> kFormatNames[] = {
    {"stored", WeightFormat::kStored}, {"fp32", WeightFormat::kF32}, {"bf16", WeightFormat::kBF16},
    {"fp16", WeightFormat::kF16},      {"int8", WeightFormat::kI8},  {"int4", WeightFormat::kI4}};

// One field of Weights and the tensors that fill it, one below the other.
struct Field {
  PackedMatrix* matrix = nullptr;        // either this one,
  std::vector<float>* vector = nullptr;  // or this one
  bool finer = false;                    // int8 where others are int4
  TensorGroup group;
  std::vector<Tensor> tensors{};  // [group], once found
};

// Where every tensor of the model goes. Pointers into `weights`. The largest come first, so that the pages of
// their files are gone again before most of the memory is in use.
std::vector<Field> Layout(ModelTensors model, Weights& weights) {
  std::vector<Field> fields;
  const auto matrix = [&](PackedMatrix& to, TensorGroup& group, bool finer = false) {
    if (!group.empty()) fields.push_back({.matrix = &to, .finer = finer, .group = std::move(group)});
  };
  const auto vector = [&](std::vector<float>& to, TensorGroup& group) {
    if (!group.empty()) fields.push_back({.vector = &to, .group = std::move(group)});
  };
  matrix(weights.embedding, model.embedding, /*finer=*/true);
  matrix(weights.head, model.head, /*finer=*/true);
  weights.layers.resize(model.layers.size());
  for (size_t i = 0; i < model.layers.size(); ++i) {
    LayerTensors& from = model.layers[i];
    LayerWeights& to = weights.layers[i];
    vector(to.attention_norm, from.attention_norm);
    matrix(to.qkv, from.qkv);
    vector(to.qkv_bias, from.qkv_bias);
    vector(to.q_norm, from.q_norm);
    vector(to.k_norm, from.k_norm);
    matrix(to.output, from.output, /*finer=*/true);
    vector(to.output_bias, from.output_bias);
    vector(to.mlp_norm, from.mlp_norm);
    matrix(to.gate_up, from.gate_up);
    vector(to.gate_up_bias, from.gate_up_bias);
    matrix(to.down, from.down);
    vector(to.down_bias, from.down_bias);
  }
  vector(weights.final_norm, model.final_norm);
  return fields;
}

// Fills in the tensors of all fields.
absl::Status FindFields(const std::string& model_dir, const Safetensors& files, bool tied_head,
                        std::vector<Field>& fields) {
  TensorGroup wanted;
  for (const Field& field : fields) wanted.insert(wanted.end(), field.group.begin(), field.group.end());
  CLAMOR_ASSIGN_OR_RETURN(std::vector<Tensor> found, FindTensors(files, model_dir, wanted, tied_head));
  auto next = found.begin();
  for (Field& field : fields) {
    for (size_t i = 0; i < field.group.size(); ++i) field.tensors.push_back(std::move(*next++));
  }
  return absl::OkStatus();
}

uint64_t BytesInFiles(const Field& field) {
  uint64_t bytes = 0;
  for (const Tensor& tensor : field.tensors) bytes += tensor.bytes;
  return bytes;
}

Storage AsInFile(const std::vector<Tensor>& tensors) {
  const DType first = tensors[0].dtype;
  for (const Tensor& tensor : tensors) {
    if (tensor.dtype != first) return Storage::kF32;
  }
  return first == DType::kBF16 ? Storage::kBF16 : first == DType::kF16 ? Storage::kF16 : Storage::kF32;
}

Storage StoredAs(const Field& field, WeightFormat format) {
  switch (format) {
    case WeightFormat::kStored:
      return AsInFile(field.tensors);
    case WeightFormat::kF32:
      return Storage::kF32;
    case WeightFormat::kBF16:
      return Storage::kBF16;
    case WeightFormat::kF16:
      return Storage::kF16;
    case WeightFormat::kI8:
      return Storage::kI8;
    case WeightFormat::kI4:
      return field.finer ? Storage::kI8 : Storage::kI4;
  }
  return Storage::kF32;
}

int64_t RowsOf(const Field& field) {
  int64_t rows = 0;
  for (const TensorShape& tensor : field.group) rows += tensor.shape[0];
  return rows;
}

std::vector<const PackedMatrix*> MatricesOf(const std::vector<Field>& fields) {
  std::vector<const PackedMatrix*> matrices;
  for (const Field& field : fields) {
    if (field.matrix != nullptr) matrices.push_back(field.matrix);
  }
  return matrices;
}

// What a file of the packed matrices of `fields` must say it is.
PackedOrigin OriginOf(const std::string& model_dir, const Safetensors& files,
                      const std::vector<Field>& fields, WeightFormat format) {
  PackedOrigin origin{.model = model_dir};
  std::vector<Tensor> tensors;
  std::set<Storage> held;
  for (const Field& field : fields) {
    if (field.matrix == nullptr) continue;
    const Storage stored = StoredAs(field, format);
    tensors.insert(tensors.end(), field.tensors.begin(), field.tensors.end());
    held.insert(stored);
    origin.bytes += PackedMatrix::BytesFor(RowsOf(field), field.group[0].shape[1], stored);
  }
  origin.fingerprint = FingerprintOf(files, tensors);
  // Matrices that are all stored in one format are what asking for that format gives.
  const bool by_name = format != WeightFormat::kStored || held.size() != 1;
  origin.format = by_name ? WeightFormatName(format) : kernels::StorageName(*held.begin());
  return origin;
}

// The first element whose bits but the sign are at least `limit`; `count` if there is none.
template <typename Bits>
int64_t FirstAtLeast(Bits limit, const void* data, int64_t count, kernels::ThreadPool& pool) {
  constexpr int64_t kBlock = 4096;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);
  std::atomic<int64_t> first = count;
  pool.ParallelFor(count, kBlock, [&](size_t begin, size_t end) {
    Bits block[kBlock];
    for (int64_t i = begin; i < static_cast<int64_t>(end) && i < first.load(); i += kBlock) {
      const int64_t size = std::min(kBlock, static_cast<int64_t>(end) - i);
      std::memcpy(block, static_cast<const char*>(data) + i * sizeof(Bits), size * sizeof(Bits));
      const auto found = [limit](Bits bits) { return (bits & ~kSign) >= limit; };
      if (std::none_of(block, block + size, found)) continue;
      const int64_t index = i + (std::find_if(block, block + size, found) - block);
      for (int64_t known = first.load(); index < known && !first.compare_exchange_weak(known, index);) {
      }
    }
  });
  return first.load();
}

// An error if the tensor has a value that would be lost in `format`.
absl::Status CheckValues(const Tensor& tensor, WeightFormat format, kernels::ThreadPool& pool) {
  const bool fp16 = format == WeightFormat::kF16;
  if (!fp16 && format != WeightFormat::kI8 && format != WeightFormat::kI4) return absl::OkStatus();
  const int64_t count = static_cast<int64_t>(tensor.bytes / kernels::DTypeSize(tensor.dtype));
  // As bits: 65520, from where fp16 is infinite, or infinity.
  const uint32_t limit = fp16 ? 0x477ff000 : 0x7f800000;
  int64_t found = count;
  if (tensor.dtype == DType::kF32) found = FirstAtLeast<uint32_t>(limit, tensor.data, count, pool);
  if (tensor.dtype == DType::kBF16) {
    found = FirstAtLeast<uint16_t>(static_cast<uint16_t>((limit + 0xffff) >> 16), tensor.data, count, pool);
  }
  if (tensor.dtype == DType::kF16) found = FirstAtLeast<uint16_t>(0x7c00, tensor.data, count, pool);
  if (found == count) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      tensor.file, ": element ", found, " of tensor ", Quote(tensor.name),
      fp16 ? " is not below 65520" : " is not finite", ", ", std::string(WeightFormatName(format)),
      " weights cannot hold it; load it as stored, fp32 or bf16"));
}

PackedMatrix EmptyMatrix(const Field& field, WeightFormat format) {
  return PackedMatrix(RowsOf(field), field.group[0].shape[1], StoredAs(field, format));
}

// Packs the tensors of `field`, giving their pages back one by one.
absl::Status Pack(const Safetensors& files, const Field& field, WeightFormat format,
                  kernels::ThreadPool& pool) {
  // A vector is packed as one column of fp32, which leaves all conversions to PackRows.
  PackedMatrix packed =
      field.matrix != nullptr ? EmptyMatrix(field, format) : PackedMatrix(RowsOf(field), 1, Storage::kF32);
  int64_t row = 0;
  for (const Tensor& tensor : field.tensors) {
    if (field.matrix != nullptr) CLAMOR_RETURN_IF_ERROR(CheckValues(tensor, format, pool));
    // Old writers did not pad the header, so `data` may stand at any address; PackRows does not mind.
    packed.PackRows(row, tensor.shape[0], tensor.data, tensor.dtype, pool);
    files.Release(tensor);
    row += tensor.shape[0];
  }
  if (field.matrix != nullptr) {
    *field.matrix = std::move(packed);
  } else {
    field.vector->resize(row);
    for (int64_t i = 0; i < row; ++i) (*field.vector)[i] = packed.At(i, 0);
  }
  return absl::OkStatus();
}

// Fills in all fields; matrices from `packed` if it is not null.
absl::Status LoadFields(const Safetensors& files, const std::vector<Field>& fields, WeightFormat format,
                        PackedFileReader* packed, kernels::ThreadPool& pool, Weights::Progress progress) {
  uint64_t done = 0, total = 0;
  for (const Field& field : fields) total += BytesInFiles(field);
  for (const Field& field : fields) {
    if (packed != nullptr && field.matrix != nullptr) {
      *field.matrix = EmptyMatrix(field, format);
      CLAMOR_RETURN_IF_ERROR(packed->Read(*field.matrix, pool));
    } else {
      CLAMOR_RETURN_IF_ERROR(Pack(files, field, format, pool));
    }
    progress(done += BytesInFiles(field), total);
  }
  return packed != nullptr ? packed->Finish() : absl::OkStatus();
}

}  // namespace

std::string_view WeightFormatName(WeightFormat format) {
  for (const auto& [name, value] : kFormatNames) {
    if (value == format) return name;
  }
  return "unknown";
}

absl::StatusOr<WeightFormat> ParseWeightFormat(std::string_view name) {
  for (const auto& [known, format] : kFormatNames) {
    if (known == name) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat("weight format is ", Quote(std::string(name)),
                                                 ", must be stored, fp32, bf16, fp16, int8 or int4"));
}

absl::StatusOr<Weights> Weights::Load(const std::string& model_dir, const ModelConfig& config,
                                      WeightFormat format, kernels::ThreadPool& pool, Progress progress,
                                      const std::string& packed_file) {
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(model_dir));
  Weights weights;
  std::vector<Field> fields = Layout(TensorsOf(config), weights);
  CLAMOR_RETURN_IF_ERROR(FindFields(model_dir, *files, config.tied_head, fields));
  if (packed_file.empty()) {
    CLAMOR_RETURN_IF_ERROR(LoadFields(*files, fields, format, nullptr, pool, progress));
    return weights;
  }
  const PackedOrigin origin = OriginOf(model_dir, *files, fields, format);
  absl::StatusOr<PackedFileReader> reader = PackedFileReader::Open(packed_file, origin);
  if (reader.ok()) {
    CLAMOR_RETURN_IF_ERROR(LoadFields(*files, fields, format, &*reader, pool, progress));
    weights.packed_file = PackedFileUse::kRead;
    return weights;
  }
  if (!absl::IsNotFound(reader.status())) return reader.status();
  // Opened before the work, so that a folder that cannot hold the file is no news after it.
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(packed_file, PackedFileBytes(origin));
  if (!file.ok() && !absl::IsAborted(file.status())) return file.status();
  CLAMOR_RETURN_IF_ERROR(LoadFields(*files, fields, format, nullptr, pool, progress));
  weights.packed_file = file.ok() ? PackedFileUse::kWritten : PackedFileUse::kLeft;
  if (file.ok()) CLAMOR_RETURN_IF_ERROR(WritePackedFile(*std::move(file), origin, MatricesOf(fields), pool));
  return weights;
}

size_t Weights::bytes() const {
  size_t floats = final_norm.size(), matrices = embedding.bytes() + head.bytes();
  for (const LayerWeights& layer : layers) {
    for (const auto* v : {&layer.attention_norm, &layer.qkv_bias, &layer.q_norm, &layer.k_norm,
                          &layer.output_bias, &layer.mlp_norm, &layer.gate_up_bias, &layer.down_bias}) {
      floats += v->size();
    }
    for (const auto* m : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) matrices += m->bytes();
  }
  return matrices + floats * sizeof(float);
}

}  // namespace clamor
