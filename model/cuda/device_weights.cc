#include "model/cuda/device_weights.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/step_io.h"
#include "kernels/float_formats.h"
#include "kernels/status_macros.h"
#include "model/checked_json.h"
#include "model/model_tensors.h"
#include "model/safetensors.h"

namespace clamor {
namespace {

using kernels::DType;

constexpr size_t kAlignment = 256;
constexpr size_t kChunk = size_t{8} << 20;  // bytes of an upload

// Of a tensor: some of its rows, and of those some columns.
struct Piece {
  size_t tensor;  // of all that the model has
  int64_t row = 0, rows = 0;
  int64_t column = 0, columns = 0;  // of a vector: 0, 1
};

// One field of DeviceWeights and the pieces that fill it, one below the other.
struct Field {
  DeviceMatrix* matrix = nullptr;  // either this one,
  const float** vector = nullptr;  // or this one
  int bits = 16;                   // of the matrix: 16, 8 or 4
  std::vector<Piece> pieces;
  int64_t n = 0, k = 1;  // padded
  size_t at = 0;         // bytes from the beginning of the memory

  size_t ValueBytes() const {
    if (vector != nullptr) return n * sizeof(float);
    return bits == 16 ? n * k * sizeof(uint16_t) : kernels::cuda::QuantizedValueBytes(n, k, bits);
  }
  size_t ScaleBytes() const { return bits == 16 ? 0 : kernels::cuda::QuantizedScaleBytes(n, k); }
};

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Lists the tensors of a model and what goes where.
class Layout {
 public:
  Layout(const ModelConfig& config, WeightFormat format, const ShardRange& range, DeviceWeights& weights)
      : format_(format), range_(range) {
    ModelTensors model = TensorsOf(config);
    const int64_t vocab = DeviceWeights::PaddedVocab(config.vocab_size, range.count);
    Matrix(weights.embedding, Add(model.embedding), Whole(), /*finer=*/true);
    if (!model.embedding.empty()) fields.back().n = vocab;
    const std::vector<size_t> head = Add(model.head);
    weights.heads.resize(range.held);
    for (int32_t i = 0; i < range.held && !head.empty(); ++i) {
      const int64_t rows = vocab / range.count, first = rows * (range.first + i);
      const int64_t there = std::clamp<int64_t>(config.vocab_size - first, 0, rows);
      fields.push_back(
          {.matrix = &weights.heads[i],
           .bits = Bits(true),
           .pieces = {{head[0], std::min<int64_t>(first, config.vocab_size), there, 0, config.hidden_size}},
           .n = rows,
           .k = config.hidden_size});
    }
    weights.layers.resize(model.layers.size());
    for (size_t i = 0; i < model.layers.size(); ++i) Layer(model.layers[i], weights.layers[i]);
    Vector(weights.final_norm, Add(model.final_norm), Whole());
  }

  std::vector<Field> fields;
  TensorGroup tensors;

 private:
  // Of each tensor of a field: all, or one shard's rows or columns.
  struct Cut {
    int32_t shard = -1;
    bool columns = false;
  };
  static Cut Whole() { return {}; }

  std::vector<size_t> Add(const TensorGroup& group) {
    std::vector<size_t> indices;
    for (const TensorShape& tensor : group) {
      indices.push_back(tensors.size());
      tensors.push_back(tensor);
    }
    return indices;
  }

  int Bits(bool finer) const {
    if (format_ == WeightFormat::kI4) return finer ? 8 : 4;
    return format_ == WeightFormat::kI8 ? 8 : 16;
  }

  Piece PieceOf(size_t tensor, const Cut& cut) const {
    const auto& shape = tensors[tensor].shape;
    Piece p = {tensor, 0, shape[0], 0, shape.size() > 1 ? shape[1] : 1};
    if (cut.shard < 0) return p;
    int64_t& begin = cut.columns ? p.column : p.row;
    int64_t& count = cut.columns ? p.columns : p.rows;
    count /= range_.count;
    begin = count * cut.shard;
    return p;
  }

  Field FieldOf(const std::vector<size_t>& group, const Cut& cut) const {
    Field field;
    for (const size_t tensor : group) {
      field.pieces.push_back(PieceOf(tensor, cut));
      field.n += field.pieces.back().rows;
      field.k = field.pieces.back().columns;
    }
    return field;
  }
  void Matrix(DeviceMatrix& to, const std::vector<size_t>& group, const Cut& cut, bool finer = false) {
    if (group.empty()) return;
    fields.push_back(FieldOf(group, cut));
    fields.back().matrix = &to;
    fields.back().bits = Bits(finer);
  }
  void Vector(const float*& to, const std::vector<size_t>& group, const Cut& cut) {
    if (group.empty()) return;
    fields.push_back(FieldOf(group, cut));
    fields.back().vector = &to;
  }

  void Layer(const LayerTensors& from, DeviceLayer& to) {
    Vector(to.attention_norm, Add(from.attention_norm), Whole());
    Vector(to.q_norm, Add(from.q_norm), Whole());
    Vector(to.k_norm, Add(from.k_norm), Whole());
    Vector(to.output_bias, Add(from.output_bias), Whole());
    Vector(to.mlp_norm, Add(from.mlp_norm), Whole());
    Vector(to.down_bias, Add(from.down_bias), Whole());
    const auto qkv = Add(from.qkv), qkv_bias = Add(from.qkv_bias), output = Add(from.output),
               gate_up = Add(from.gate_up), gate_up_bias = Add(from.gate_up_bias), down = Add(from.down);
    to.shards.resize(range_.held);
    for (int32_t i = 0; i < range_.held; ++i) {
      DeviceShard& shard = to.shards[i];
      const Cut rows = {range_.first + i, false}, columns = {range_.first + i, true};
      Matrix(shard.qkv, qkv, rows);
      Vector(shard.qkv_bias, qkv_bias, rows);
      Matrix(shard.output, output, columns, /*finer=*/true);
      Matrix(shard.gate_up, gate_up, rows);
      Vector(shard.gate_up_bias, gate_up_bias, rows);
      Matrix(shard.down, down, columns);
    }
  }

  const WeightFormat format_;
  const ShardRange range_;
};

const char* NameOf(WeightFormat format) {
  return format == WeightFormat::kI8 ? "int8" : format == WeightFormat::kI4 ? "int4" : "bf16";
}

// Places all fields one behind the other. Returns the end.
size_t Place(std::vector<Field>& fields) {
  size_t end = 0;
  for (Field& field : fields) {
    field.at = end;
    end += Aligned(field.ValueBytes()) + Aligned(field.ScaleBytes());
  }
  return end;
}

// Bytes in fp32 of the largest piece that is quantised, 0 if none is.
size_t MostQuantised(const std::vector<Field>& fields) {
  size_t most = 0;
  for (const Field& field : fields) {
    for (const Piece& piece : field.pieces) {
      if (field.bits != 16) most = std::max(most, piece.rows * piece.columns * sizeof(float));
    }
  }
  return most;
}

float ReadFloat(const std::byte* from, DType type) {
  if (type == DType::kF32) {
    float v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  uint16_t v;
  std::memcpy(&v, from, sizeof(v));
  return type == DType::kBF16 ? kernels::FromBF16(v) : kernels::FromF16(v);
}

// Elements of a file as bf16 or fp32.
void Convert(const std::byte* from, DType type, int64_t n, bool to_bf16, std::byte* to) {
  const size_t size = kernels::DTypeSize(type);
  if (to_bf16 ? type == DType::kBF16 : type == DType::kF32) {
    std::memcpy(to, from, n * size);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float v = ReadFloat(from + i * size, type);
    if (to_bf16) {
      reinterpret_cast<uint16_t*>(to)[i] = kernels::ToBF16(v);
    } else {
      reinterpret_cast<float*>(to)[i] = v;
    }
  }
}

// The first of n elements, of bf16 or fp32, that is not finite; n if all are.
int64_t FirstNotFinite(const std::byte* values, bool bf16, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<std::byte*>(&bits) + (bf16 ? 2 : 0), values + i * (bf16 ? 2 : 4),
                bf16 ? 2 : 4);
    if ((bits & 0x7f800000) == 0x7f800000) return i;
  }
  return n;
}

// Brings pieces to the device. What is quantised goes there as it is stored, bf16 or fp32, and is quantised
// from there.
class Uploader {
 public:
  Uploader(size_t staged, kernels::cuda::Stream stream)
      : stream_(stream),
        uploads_(kChunk),
        staging_(staged > 0 ? kernels::cuda::DeviceBuffer(staged, stream) : kernels::cuda::DeviceBuffer()) {}

  // What of it is missing is said in the status.
  absl::Status Ready(size_t staged) const {
    if (!uploads_.ok()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "uploads take ", 2 * kChunk, " bytes of pinned memory, the host has not as much left"));
    }
    if (staged > 0 && staging_.data() == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("quantising takes ", staged, " bytes, the device has ",
                                                       kernels::cuda::FreeDeviceBytes(), " left"));
    }
    return absl::OkStatus();
  }

  // `row`: of the field, where the piece begins.
  absl::Status Upload(const Tensor& tensor, const Piece& piece, const Field& field, int64_t row,
                      std::byte* to) {
    const bool quantised = field.bits != 16;
    const bool bf16 = field.matrix != nullptr && (!quantised || tensor.dtype == DType::kBF16);
    const size_t element = bf16 ? sizeof(uint16_t) : sizeof(float), line = piece.columns * element;
    const int64_t lines = std::max<int64_t>(1, static_cast<int64_t>(kChunk / line));
    if (line > kChunk) return TooLong(tensor, line);
    const size_t stored = kernels::DTypeSize(tensor.dtype);
    const int64_t width = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    const std::byte* const from = static_cast<const std::byte*>(tensor.data);
    for (int64_t begin = 0; begin < piece.rows; begin += lines) {
      const int64_t n = std::min(lines, piece.rows - begin);
      std::byte* const host = uploads_.Next();
      for (int64_t r = 0; r < n; ++r) {
        const int64_t first = (piece.row + begin + r) * width + piece.column;
        Convert(from + first * stored, tensor.dtype, piece.columns, bf16, host + r * line);
        if (!quantised) continue;
        const int64_t bad = FirstNotFinite(host + r * line, bf16, piece.columns);
        if (bad < piece.columns) return NotFinite(tensor, first + bad, field.bits);
      }
      if (!quantised) {
        uploads_.Upload(to + (row + begin) * line, n * line, stream_);
        continue;
      }
      uploads_.Upload(staging_.data(), n * line, stream_);
      kernels::cuda::QuantizeWeights(staging_.data(), bf16, row + begin, n, field.matrix->quantized, stream_);
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status NotFinite(const Tensor& tensor, int64_t element, int bits) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": element ", element, " of tensor ",
                                                   Quote(tensor.name), " is not finite, int", bits,
                                                   " weights cannot hold it; load it as stored or bf16"));
  }
  static absl::Status TooLong(const Tensor& tensor, size_t bytes) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": a row of tensor ", Quote(tensor.name),
                                                   " takes ", bytes, " bytes, the CUDA back end takes up to ",
                                                   kChunk));
  }

  const kernels::cuda::Stream stream_;
  kernels::cuda::Uploads uploads_;
  kernels::cuda::DeviceBuffer staging_;
};

void Point(const Field& field, std::byte* memory) {
  std::byte* const at = memory + field.at;
  if (field.vector != nullptr) {
    *field.vector = reinterpret_cast<const float*>(at);
    return;
  }
  DeviceMatrix& m = *field.matrix;
  m.n = field.n;
  m.k = field.k;
  if (field.bits == 16) {
    m.bf16 = reinterpret_cast<const uint16_t*>(at);
  } else {
    m.quantized = {.values = reinterpret_cast<uint8_t*>(at),
                   .scales = reinterpret_cast<uint16_t*>(at + Aligned(field.ValueBytes())),
                   .scale_stride = field.n,
                   .n = field.n,
                   .k = field.k,
                   .bits = field.bits};
  }
}

// The head of a model that ties it: rows of the embedding.
DeviceMatrix RowsOf(const DeviceMatrix& from, int64_t first, int64_t rows) {
  DeviceMatrix m = from;
  m.n = rows;
  if (m.bf16 != nullptr) {
    m.bf16 += first * m.k;
  } else {
    m.quantized.values += kernels::cuda::QuantizedValueBytes(first, m.k, m.quantized.bits);
    m.quantized.scales += first;
    m.quantized.n = rows;
  }
  return m;
}

}  // namespace

absl::StatusOr<DeviceWeights> DeviceWeights::Load(const std::string& model_dir, const ModelConfig& config,
                                                  WeightFormat format, const ShardRange& range,
                                                  kernels::cuda::Stream stream, Weights::Progress progress) {
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(model_dir));
  DeviceWeights weights;
  weights.range = range;
  Layout layout(config, format, range, weights);
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors,
                          FindTensors(*files, model_dir, layout.tensors, config.tied_head));
  uint64_t total = 0, done = 0;
  for (const Tensor& tensor : tensors) total += tensor.bytes;

  weights.bytes = Place(layout.fields);
  weights.memory = kernels::cuda::DeviceBuffer(weights.bytes, stream);
  if (weights.memory.data() == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(model_dir, ": the weights take ", weights.bytes,
                                                     " bytes in ", NameOf(format), ", the device has ",
                                                     kernels::cuda::FreeDeviceBytes(), " left"));
  }
  const size_t staged = std::min(kChunk, MostQuantised(layout.fields));
  Uploader uploader(staged, stream);
  CLAMOR_RETURN_IF_ERROR(uploader.Ready(staged));
  for (const Field& field : layout.fields) {
    Point(field, weights.memory.data());
    int64_t row = 0;
    for (const Piece& piece : field.pieces) {
      const Tensor& tensor = tensors[piece.tensor];
      CLAMOR_RETURN_IF_ERROR(uploader.Upload(tensor, piece, field, row, weights.memory.data() + field.at));
      row += piece.rows;
      files->Release(tensor);
      done += piece.rows * piece.columns * kernels::DTypeSize(tensor.dtype);
      progress(std::min(done, total), total);
    }
  }
  for (int32_t i = 0; i < range.held && weights.heads[i].n == 0; ++i) {
    const int64_t rows = weights.embedding.n / range.count;
    weights.heads[i] = RowsOf(weights.embedding, rows * (range.first + i), rows);
  }
  return weights;
}

}  // namespace clamor
