#pragma once
#include <vector>

#include <torch/optim/lbfgs.h>

namespace halfstep::detail {

/// The parameters and the state of an LBFGS before a step, to go back to where the step must not
/// count. Takes the memory of both once more.
class LbfgsSnapshot {
 public:
  explicit LbfgsSnapshot(torch::optim::LBFGS& optimizer);

  /// Puts both back, once.
  void restore();

 private:
  torch::optim::LBFGS& optimizer_;
  std::vector<at::Tensor> parameters_;
  ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>> state_;
};

}  // namespace halfstep::detail
