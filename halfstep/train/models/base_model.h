#pragma once
#include "halfstep/optim_wrapper/optim_wrapper_base.h"
#include "halfstep/train/models/data_preprocessor.h"
#include "halfstep/train/models/parse_losses.h"

#include <memory>
#include <string>
#include <utility>

#include <torch/nn/module.h>

namespace halfstep::train {

// clang-format off
/// What the trainer trains, in MMEngine's words. A model says what its output and its losses are;
/// how a batch becomes a step is written here, and a model with a step of its own (several
/// optimizers, a loss that needs two forwards) overrides train_step.
///
///   class DemoModel : public halfstep::train::BaseModel {
///    public:
///     torch::Tensor forward(const torch::Tensor& inputs) override { return net_->forward(inputs); }
///     Losses loss(const Batch& batch) override {
///       return {{"loss", F::cross_entropy(forward(batch.data), batch.target)}};
///     }
///     …
///   };
///
/// A model with one output and one loss is a Model (model.h): forward alone, the loss from the
/// config. Difference from MMEngine, whose one forward takes the mode as a text: forward, loss and
/// predict are functions here.
// clang-format on
class BaseModel : public torch::nn::Module {
 public:
  /// `name` is what name() gives; without one it is the class's.
  BaseModel();
  explicit BaseModel(std::string name);

  /// Moves batches to the model's device and normalises them; the module "data_preprocessor" of
  /// this one. Without a mean by default: then it only moves.
  DataPreprocessor data_preprocessor{nullptr};
  /// Puts another one in its place, and on its device. Not null.
  void set_data_preprocessor(std::shared_ptr<DataPreprocessorImpl> preprocessor);

  /// Inputs as data_preprocessor gives them (first dimension: examples) → raw outputs.
  virtual torch::Tensor forward(const torch::Tensor& inputs) = 0;

  /// A batch as data_preprocessor gives it → the terms of the loss.
  virtual Losses loss(const Batch& batch) = 0;

  /// Inputs as data_preprocessor gives them → what val_step and test_step return: the outputs
  /// unless a model says otherwise.
  virtual torch::Tensor predict(const torch::Tensor& inputs) { return forward(inputs); }

  /// One iteration: a batch as the loader gives it → parameters updated, numbers to log. Here
  ///
  ///   { auto context = optim_wrapper.optim_context(*this); losses = loss(data_preprocessor(data,
  ///   true)); } auto [total, log_vars] = parse_losses(losses); optim_wrapper.update_params(total);
  ///
  /// Does not sync with the device. Where gradients are accumulated, the trainer counts iterations
  /// for the one optimizer of a run, to know the last: a step of a model's own updates it once.
  virtual LogVars train_step(const Batch& data, OptimWrapperBase& optim_wrapper);

  /// The predictions for a batch as the loader gives it, which a validation compares with the
  /// targets: `predict` of what data_preprocessor makes of it. Mode (eval), precision and gradients
  /// are the caller's. Does not sync.
  virtual torch::Tensor val_step(const Batch& data);
  /// The same for `halfstep test`; val_step unless a model says otherwise.
  virtual torch::Tensor test_step(const Batch& data);

  /// The loss to train with and all its terms for the log; see the function parse_losses.
  virtual std::pair<torch::Tensor, LogVars> parse_losses(const Losses& losses) const;
};

}  // namespace halfstep::train
