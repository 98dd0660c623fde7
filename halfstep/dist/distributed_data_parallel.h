#pragma once
#include "halfstep/core/nested.h"
#include "halfstep/dist/ddp_options.h"
#include "halfstep/dist/gradient_reducer.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/optim_wrapper/gradient_sync.h"

#include <memory>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::dist {

/// What a DistributedDataParallel does around any forward.
class DistributedDataParallelBase : public torch::nn::Module, public GradientSync {
 public:
  /// What exchanges the gradients, among whom, and how.
  GradientReducer& reducer() { return *reducer_; }
  ProcessGroup& group() { return reducer_->group(); }
  const DistributedDataParallelOptions& options() const { return reducer_->options(); }

  /// Gradients of forwards made while it lives stay each rank's own, and add up.
  NoSync no_sync() { return NoSync(this); }

  /// Gives every rank rank 0's buffers: before an evaluation, which exchanges nothing by itself.
  void sync_buffers();

 protected:
  /// Gives every rank rank 0's parameters and buffers. Throws UsageError for null, and where the
  /// ranks' models differ in form.
  DistributedDataParallelBase(const std::shared_ptr<torch::nn::Module>& module, ProcessGroup& group,
                              const DistributedDataParallelOptions& options);
  /// Returns whether the backward of this forward exchanges gradients.
  bool begin_forward();
  void end_forward(const std::vector<at::Tensor>& outputs);

 private:
  NamedTensors buffers_;
  std::unique_ptr<GradientReducer> reducer_;
  bool buffers_may_differ_ = true;
};

/// A module that is trained by several ranks, each with a part of the batch: gradients are averages
/// over all ranks when backward returns, and the exchange of each bucket of them runs beside the
/// rest of backward. As torch.nn.parallel.DistributedDataParallel.
///
///   Net net;
///   halfstep::dist::DistributedDataParallel ddp(net, group);
///   torch::optim::SGD optimizer(net->parameters(), 0.1);
///   …
///   F::cross_entropy(ddp.forward(batch.data), batch.target).backward();
///   optimizer.step();
///
/// At construction rank 0's parameters and buffers are given to all, and compared. A forward with
/// gradients is followed by one backward. Works with Autocast, GradScaler (give it the group, so
/// that all ranks skip together), OptimWrapper and AmpOptimWrapper (`optim_context(ddp)` switches
/// the exchange off for iterations that only accumulate), and several modules with an optimizer
/// each. Not with a Graph; see GradientReducer.
///
/// Differences from Python: a forward without gradients exchanges nothing, so one rank may evaluate
/// alone; models that differ are an error with the parameter's name; named_parameters() of the
/// module itself keep their names, those of this object begin with "module.".
template <class ModuleType>
class DistributedDataParallel : public DistributedDataParallelBase {
 public:
  /// All ranks call it. The group must outlive it. Throws UsageError, on all ranks, where the
  /// models differ in names, shapes or dtypes; see GradientReducer.
  DistributedDataParallel(std::shared_ptr<ModuleType> module, ProcessGroup& group,
                          const DistributedDataParallelOptions& options = {})
      : DistributedDataParallelBase(module, group, options), module_(std::move(module)) {}
  DistributedDataParallel(const torch::nn::ModuleHolder<ModuleType>& module, ProcessGroup& group,
                          const DistributedDataParallelOptions& options = {})
      : DistributedDataParallel(module.ptr(), group, options) {}

  /// The module's forward. Its result may be a tensor or containers of such (see core/nested.h);
  /// with find_unused_parameters it must be.
  template <class... Arguments>
  auto forward(Arguments&&... arguments) {
    const bool exchanges = begin_forward();
    auto output = module_->forward(std::forward<Arguments>(arguments)...);
    if (!exchanges) return output;
    std::vector<at::Tensor> tensors;
    if (options().find_unused_parameters()) {
      using Output = std::remove_cvref_t<decltype(output)>;
      if constexpr (halfstep::detail::TensorNest<Output>)
        halfstep::detail::visit_tensors([&](const at::Tensor& each) { tensors.push_back(each); },
                                        output);
      else
        refuse_output();
    }
    end_forward(tensors);
    return output;
  }

  /// The wrapped module.
  ModuleType& module() { return *module_; }

 private:
  [[noreturn]] static void refuse_output() {
    halfstep::detail::raise<UsageError>(
        "DistributedDataParallel",
        "with find_unused_parameters the output must be tensors, but this class may hide some; "
        "return a tensor, a tuple, a vector or a map, or call reducer().prepare_for_backward");
  }

  std::shared_ptr<ModuleType> module_;
};

/// The type of the module in a holder, or in a pointer.
template <class Holder>
DistributedDataParallel(const Holder&, ProcessGroup&, const DistributedDataParallelOptions& = {})
    -> DistributedDataParallel<typename Holder::ContainedType>;
template <class ModuleType>
DistributedDataParallel(std::shared_ptr<ModuleType>, ProcessGroup&,
                        const DistributedDataParallelOptions& = {})
    -> DistributedDataParallel<ModuleType>;

}  // namespace halfstep::dist
