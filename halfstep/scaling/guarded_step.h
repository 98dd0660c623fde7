#pragma once
#include "halfstep/scaling/step_result.h"
#include "halfstep/scaling/takes_grad_scale.h"

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep::detail {

/// Steps, and forgets casts of weights the step may have written without bumping their version.
at::Tensor step_and_clear_cache(torch::optim::Optimizer& optimizer,
                                torch::optim::Optimizer::LossClosure closure = nullptr);

/// Empties the two tensors of an optimizer when its step ends, however it ends.
class LentScale {
 public:
  explicit LentScale(TakesGradScale& taker) : taker_(taker) {}
  LentScale(const LentScale&) = delete;
  LentScale& operator=(const LentScale&) = delete;
  ~LentScale() {
    taker_.grad_scale.reset();
    taker_.found_inf.reset();
  }

 private:
  TakesGradScale& taker_;
};

/// One step, left out where `found_inf` (0-dim float32; undefined: nobody checked) is not 0: by
/// the optimizer itself where it TakesGradScale, without a sync, else by reading the flag. What
/// its grad_scale holds is kept for the step.
StepResult step_unless(torch::optim::Optimizer& optimizer, const at::Tensor& found_inf);

}  // namespace halfstep::detail
