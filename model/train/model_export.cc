#include "model/train/model_export.h"

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/status_macros.h"
#include "model/safetensors.h"
#include "model/train/model_writer.h"

namespace clamor {
namespace {

// Which rows of which adapter's product stand beside a tensor.
struct Beside {
  int layer = 0, product = -1;  // -1: none
  int64_t first = 0;            // floats of the product before the tensor's own
};

// In the order of ModelParameters' table.
std::vector<Beside> AdaptersOf(const ModelConfig& config, const ParameterTable& table) {
  std::vector<Beside> beside(table.tensors().size());
  const ModelTensors tensors = TensorsOf(config);
  for (size_t layer = 0; layer < tensors.layers.size(); ++layer) {
    const LayerTensors& t = tensors.layers[layer];
    const TensorGroup* groups[] = {&t.qkv, &t.output, &t.gate_up, &t.down};
    for (int product = 0; product < 4; ++product) {
      int64_t first = 0;
      for (const TensorShape& tensor : *groups[product]) {
        beside[table.IndexOf(tensor.name)] = {static_cast<int>(layer), product, first};
        first += tensor.shape[0] * tensor.shape[1];
      }
    }
  }
  return beside;
}

}  // namespace

absl::Status ExportModel(const std::string& model_dir, const std::string& source_dir,
                         const TrainableModel& model, LowRankOptions adapters, kernels::DType dtype,
                         kernels::ThreadPool& pool) {
  if (adapters.rank == 0) {
    return WriteModel(model_dir, source_dir, model.table(), dtype,
                      [&](size_t index) { return model.table().Slice(model.values(), index); });
  }
  const ModelParameters base(model.config());
  CLAMOR_ASSIGN_OR_RETURN(const std::unique_ptr<Safetensors> files, Safetensors::Open(source_dir));
  CLAMOR_ASSIGN_OR_RETURN(const std::vector<Tensor> tensors,
                          FindTensors(*files, source_dir, base.table.tensors(), model.config().tied_head));
  const std::vector<Beside> beside = AdaptersOf(model.config(), base.table);
  std::vector<float> values, update;
  std::pair<int, int> updated = {-1, -1};  // the layer and product that `update` is of
  return WriteModel(model_dir, source_dir, base.table, dtype, [&](size_t index) -> std::span<const float> {
    values.resize(base.table.parameters()[index].size);
    WidenTensor(tensors[index], values);
    files->Release(tensors[index]);
    if (const Beside& b = beside[index]; b.product >= 0) {
      if (updated != std::pair(b.layer, b.product)) {
        update = AdapterUpdate(model, adapters, b.layer, b.product, pool);
        updated = {b.layer, b.product};
      }
      kernels::Add(values.data(), update.data() + b.first, static_cast<int64_t>(values.size()), values.data(),
                   pool);
    }
    return values;
  });
}

}  // namespace clamor
