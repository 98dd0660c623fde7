#pragma once
#include "halfstep/core/libtorch.h"
#include "halfstep/dist/ddp_options.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/dist/same_model.h"

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

namespace c10d {
class Logger;
class Reducer;
}  // namespace c10d

namespace halfstep::dist {

/// Averages the gradients of some parameters over all ranks while backward computes them: PyTorch's
/// own c10d::Reducer, as MMCV's 0.x code calls it by hand.
///
///   GradientReducer reducer(net->named_parameters(), group);
///   …
///   reducer.prepare_for_backward({loss});
///   scaler.scale(loss).backward();  // gradients are averages when it returns
///   reducer.check_reduced();
///
/// A backward without prepare_for_backward leaves each rank its own gradients, to be added to: all
/// that is there, of earlier ones too, is exchanged by the next prepared one.
/// DistributedDataParallel is this around a module's forward. Works below GradScaler (its scale
/// must be the same on all ranks: GradScalerOptions::process_group), with any optimizer, and with
/// several reducers for the parameters of several optimizers. On a GPU nothing waits for the
/// device.
///
/// A Graph can't record it: the exchange begins in hooks of backward, which are no operations.
class GradientReducer {
 public:
  /// Hooks itself to the parameters that require gradients. The group must outlive it. Throws
  /// UsageError, on all ranks, where names, shapes or dtypes differ between ranks; for no such
  /// parameter, several devices, and gradients of another dtype than their parameter's
  /// (set_gradient_dtype). All ranks call it; it exchanges nothing of the weights: see
  /// broadcast_all_.
  GradientReducer(const NamedTensors& parameters, ProcessGroup& group,
                  const DistributedDataParallelOptions& options = {});
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// May be called before the forward: buckets are arranged then, once, in the order in which the
  /// first backward filled them; else prepare_for_backward does it.
  void prepare_for_forward();

  /// Hooks itself again to parameters that have been given other memory since, as torch::load does:
  /// LibTorch drops a leaf's hooks then, in silence. Before a forward; prepare_for_forward does it.
  /// Throws UsageError where one has another shape, dtype or device now.
  void keep_hooks();

  /// The next backward averages. `outputs` are what it begins from (the loss), or the outputs of
  /// the forward: with find_unused_parameters, parameters that none of them depends on count as
  /// done. Throws UsageError where the last one was not complete, with the parameters it missed,
  /// where weights were loaded before the forward without keep_hooks(), and while a Graph records.
  void prepare_for_backward(const std::vector<at::Tensor>& outputs);

  /// Throws UsageError unless the last prepared backward averaged everything; names parameters
  /// that took no part in the loss. Python finds that one step later.
  void check_reduced();

  /// Among whom it exchanges, and how.
  ProcessGroup& group() { return group_; }
  const DistributedDataParallelOptions& options() const { return options_; }

 private:
  [[noreturn]] void explain(const std::string& message) const;
  bool has_other_hooks() const;

  ProcessGroup& group_;
  DistributedDataParallelOptions options_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_;
  std::shared_ptr<c10d::Reducer> reducer_;
  std::shared_ptr<c10d::Logger> logger_;
  std::vector<halfstep::detail::NodePtr> accumulators_;  // of the parameters, with the hooks
  std::vector<at::TensorOptions> kinds_;                 // what they were like
  std::vector<std::vector<int64_t>> sizes_;
  bool forward_prepared_ = false;
};

}  // namespace halfstep::dist
