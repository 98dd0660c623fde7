#pragma once
#include "halfstep/train/files/safetensors.h"
#include "halfstep/train/models/model.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::benchmarks {

/// One batch.
struct Batch {
  at::Tensor input, target;
};

/// A network and the batch it trains on: mlp_small, mlp_large, resnet18 or gpt, those of
/// benchmarks/networks.py.
class Workload {
 public:
  /// `batch_size` 0 means the workload's own. Throws UsageError for an unknown name.
  Workload(std::string name, int64_t batch_size);

  /// The workload's names.
  static std::vector<std::string> names();

  /// A network with the parameters of the file, or with LibTorch's own initial values for a fixed
  /// seed where there is none.
  std::shared_ptr<train::Model> network(const std::filesystem::path& file,
                                        bool channels_last) const;

  /// The batch in the file, or a random one for a fixed seed where there is none; the first
  /// `batch_size` examples. An input of images is channels-last where asked for.
  Batch batch(const std::filesystem::path& file, bool channels_last) const;

  const std::string& name() const { return name_; }
  int64_t batch_size() const { return batch_size_; }

 private:
  std::string name_;
  int64_t batch_size_;
};

}  // namespace halfstep::benchmarks
