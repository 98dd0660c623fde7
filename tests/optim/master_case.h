#pragma once
#include "halfstep/optim.h"

#include <string>
#include <vector>

#include <torch/types.h>

#include "tests/support/devices.h"

namespace halfstep::testing {

inline constexpr optim::Kernel kKernels[] = {optim::Kernel::automatic, optim::Kernel::aten};
inline constexpr optim::MasterWeights kKinds[] = {optim::MasterWeights::float32,
                                                  optim::MasterWeights::remainder};

inline std::string name_of(optim::Kernel kernel, optim::MasterWeights kind) {
  return c10::str(kernel == optim::Kernel::aten ? "ATen" : "own",
                  kind == optim::MasterWeights::remainder ? ", remainder" : ", float32");
}

inline optim::FusedState& state_of(const torch::optim::Optimizer& optimizer,
                                   const at::Tensor& parameter) {
  return static_cast<optim::FusedState&>(*optimizer.state().at(parameter.unsafeGetTensorImpl()));
}

/// Tests of masters on each device.
class MasterTest : public DeviceTest {
 protected:
  at::TensorOptions here(c10::ScalarType dtype = torch::kBFloat16) const {
    return torch::device(device()).dtype(dtype);
  }
  at::Tensor one(std::vector<float> values, c10::ScalarType dtype = torch::kBFloat16) const {
    return torch::tensor(values, here(dtype)).requires_grad_();
  }
};

}  // namespace halfstep::testing
