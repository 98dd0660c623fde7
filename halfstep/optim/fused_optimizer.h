#pragma once
#include "halfstep/optim/fused_options.h"
#include "halfstep/optim/fused_state.h"
#include "halfstep/optim/step_item.h"
#include "halfstep/scaling/takes_grad_scale.h"

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::optim {

namespace detail {

/// What one call of a fused kernel takes: parameters of one group, device and dtype, dense and laid
/// out alike.
struct FusedBatch {
  std::vector<at::Tensor> parameters, gradients, steps;
  std::array<std::vector<at::Tensor>, FusedState::kBuffers> buffers;
  bool is_first_step = false;
  std::optional<at::Tensor> grad_scale, found_inf;  // on the batch's device
};

}  // namespace detail

/// Base of Adam, AdamW, SGD and Adagrad of this namespace: torch::optim::Optimizer subclasses whose
/// `step` runs ATen's fused kernels (one launch for many parameters on CUDA), for parameters in
/// float32, float64, bfloat16 and float16 on CPU and CUDA. With a GradScaler they divide by the
/// scale and skip on overflow on the device and never sync.
///
/// Parameters, gradients and state may have any strides; a gradient in another dtype than its
/// parameter is converted. Parameters without gradient are left alone. What the kernels write gets
/// a new version, and the autocast cache is cleared, so neither autograd nor a region of Autocast
/// goes on with old weights.
///
/// Where a scale or clipping is given, gradients are left divided by it, as Python's fused
/// optimizers leave them. Difference from Python: a gradient that is not laid out as its parameter
/// is right on the CPU too, where Python's kernels ignore strides.
///
/// Not for use by two threads at once. Errors are UsageErrors, thrown by `step` before anything is
/// changed.
class FusedOptimizer : public torch::optim::Optimizer, public TakesGradScale {
 public:
  /// One step. A closure is called first, with gradients on, and its loss returned. Throws
  /// UsageError for sparse gradients, for dtypes and devices the kernels don't know, and for
  /// parameters whose elements share memory.
  at::Tensor step(LossClosure closure = nullptr) override;

  /// Adds a group; fields its options don't set are the defaults'. Hides the base class's, through
  /// which LibTorch 2.15 would drop the options of classes it does not know. Throws UsageError for
  /// options of another class or out of range, and for a parameter the optimizer has already
  /// (Difference from Python, which only warns where it is in the same group).
  void add_param_group(const torch::optim::OptimizerParamGroup& group);

 protected:
  /// `where` is the class's name, which opens the messages.
  FusedOptimizer(const char* where, const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 std::unique_ptr<FusedOptions> defaults);

  virtual std::unique_ptr<FusedState> make_state() const = 0;

  /// Makes the tensors that `state` lacks for a step with these options. `parameter` is dense.
  virtual void fill_state(FusedState& state, const at::Tensor& parameter,
                          const FusedOptions& options) const = 0;

  /// One step of ATen's kernel. `batch.steps` have been incremented.
  virtual void call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const = 0;

  /// True where a parameter's first step has a rule of its own (SGD's momentum).
  virtual bool first_step_differs(const FusedOptions&) const { return false; }

  /// True where a first step that was skipped must leave no state, because what fill_state made is
  /// no good start for the second. Costs one sync, at the first step.
  virtual bool drops_skipped_first_step(const FusedOptions&) const { return false; }

  /// Replaces state and options by what `read` reads into this optimizer, in layouts that fit the
  /// parameters. Where something throws, nothing is changed.
  void load_with(const std::function<void()>& read);

  const char* where() const { return where_; }

 private:
  void step_with_aten(const std::vector<detail::StepItem>& items);

  const char* where_;
};

}  // namespace halfstep::optim
