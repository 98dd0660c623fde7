#pragma once
#include <memory>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::train {

/// Puts a module and all below it in evaluation mode, and gives each its own mode back at the end,
/// also where something throws.
class EvaluationMode {
 public:
  /// The module must outlive it.
  explicit EvaluationMode(torch::nn::Module& model)
      : model_(model), was_training_(model.is_training()) {
    for (auto& module : model.modules(/*include_self=*/false))
      below_.emplace_back(module, module->is_training());
    model.eval();
  }
  ~EvaluationMode() {
    // From the top down, because train() sets what lies below, too.
    model_.train(was_training_);
    for (auto& [module, was_training] : below_) module->train(was_training);
  }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  torch::nn::Module& model_;
  bool was_training_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> below_;
};

}  // namespace halfstep::train
