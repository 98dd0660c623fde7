#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/data/dataset.h"

#include <memory>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace halfstep::train {

/// Brings batches to the model's device and normalises them: data = (data - mean) / std. A module
/// of the model (BaseModel::data_preprocessor), so it moves with it, and mean and std are buffers
/// saved with it: whoever loads a model can't forget them.
///
///   const auto [inputs, targets] = model.data_preprocessor(batch, /*training=*/true);
///
/// Derive from it for more (augmentation, say), and give that to BaseModel::set_data_preprocessor.
/// Difference from MMEngine, which leaves mean and std out of checkpoints.
class DataPreprocessorImpl : public torch::nn::Module {
 public:
  /// Neither mean nor std: data stay as they are. Else as many numbers in both, one or one for each
  /// channel, the third dimension from the end. Throws UsageError for other lengths and for a std
  /// of 0 or below.
  explicit DataPreprocessorImpl(const std::vector<double>& mean = {},
                                const std::vector<double>& std = {});

  /// A batch on the device, normalised. `training` is for classes that augment. Does not sync.
  /// Throws UsageError where the data has not as many channels as the mean.
  virtual Batch forward(const Batch& batch, bool training);

  /// What (data - mean) / std was made from: for images that a model makes.
  at::Tensor denormalize(const at::Tensor& data) const;

  /// Where batches go; the CPU before the first to().
  c10::Device device() const { return device_; }

  using torch::nn::Module::to;
  /// As torch::nn::Module's; device() follows.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;

 private:
  at::Tensor mean_, std_;  // (c, 1, 1) or undefined
  c10::Device device_ = c10::kCPU;
};

/// Holder of a DataPreprocessorImpl or of a class derived from it.
class DataPreprocessor : public torch::nn::ModuleHolder<DataPreprocessorImpl> {
 public:
  using torch::nn::ModuleHolder<DataPreprocessorImpl>::ModuleHolder;
  /// As forward.
  Batch operator()(const Batch& batch, bool training) { return impl_->forward(batch, training); }
};

/// Reads `type` (DataPreprocessor, the default, or MMEngine's name ImgDataPreprocessor), `mean` and
/// `std`, lists of numbers.
std::shared_ptr<DataPreprocessorImpl> make_data_preprocessor(Config& config);

}  // namespace halfstep::train
