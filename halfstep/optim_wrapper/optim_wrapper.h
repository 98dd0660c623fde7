#pragma once
#include "halfstep/optim_wrapper/optim_wrapper_base.h"
#include "halfstep/optim_wrapper/optim_wrapper_options.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep {

/// An optimizer with what belongs around its step, in MMEngine's words: gradient accumulation and
/// clipping. AmpOptimWrapper adds mixed precision behind the same calls, so a training loop is
/// written once.
///
///   halfstep::OptimWrapper wrapper(
///       optimizer, halfstep::OptimWrapperOptions().accumulative_counts(8).clip_grad(
///                      halfstep::ClipGrad::norm(1)));
///   wrapper.initialize_count_status(*net, 0, iterations);
///   for (auto& batch : *loader) {
///     torch::Tensor loss;
///     {
///       const auto context = wrapper.optim_context(*net);
///       loss = F::cross_entropy(net->forward(batch.data), batch.target);
///     }
///     wrapper.update_params(loss);  // each eighth time, and the last: step, zero_grad
///   }
///
/// Fused optimizers (halfstep::optim) clip in their own kernel, to the same values; others get
/// their gradients clipped before the step. Not for use by two threads at once. Errors are
/// UsageErrors, thrown before anything is changed.
class OptimWrapper : public OptimWrapperBase {
 public:
  /// The optimizer must outlive the wrapper. Throws UsageError for options out of range, for LBFGS,
  /// whose step needs a closure, and for `clip_grad` beside a clipping of the optimizer's own.
  explicit OptimWrapper(torch::optim::Optimizer& optimizer,
                        const OptimWrapperOptions& options = OptimWrapperOptions());
  /// The wrapper keeps the optimizer alive. Not null.
  explicit OptimWrapper(std::shared_ptr<torch::optim::Optimizer> optimizer,
                        const OptimWrapperOptions& options = OptimWrapperOptions());
  ~OptimWrapper() override;

  /// One iteration: scale_loss, backward, and, where should_update(), step and zero_grad. The
  /// step's result, as GradScaler gives it, or none where gradients were only accumulated: what a
  /// scheduler needs to advance by steps that were taken.
  ///
  ///   if (const auto result = wrapper.update_params(loss)) scheduler.step(*result);
  ///
  /// Difference from MMEngine, which returns nothing and advances schedules in each iteration.
  std::optional<StepResult> update_params(const at::Tensor& loss) override;

  /// The loss over the number of iterations that are accumulated with this one:
  /// accumulative_counts, or, in the last of max_counts iterations where they don't divide, what is
  /// left. Throws UsageError past max_counts.
  at::Tensor scale_loss(const at::Tensor& loss) const;

  /// Computes gradients, adds them to those that are there, and counts the iteration.
  void backward(const at::Tensor& loss) override;

  /// Clips and steps, whatever the count is. The cast cache of autocast is cleared. Here the step
  /// is always taken. Does not sync with a GPU beyond what the optimizer itself does.
  StepResult step() override;

  /// Drops the gradients of all groups.
  void zero_grad() override;

  /// Whether the gradients of the iterations so far are to be stepped now: after each
  /// accumulative_counts-th one, and after the last of max_counts.
  bool should_update() const;

  /// Whether the iteration that comes is one of those: then ranks must exchange gradients.
  bool should_sync() const;

  /// The region of one iteration's forward. Where the model is a GradientSync and not
  /// should_sync(), it does not exchange the gradients of this iteration.
  OptimContext optim_context(torch::nn::Module& model) override;

  /// Where the run stands: `init_counts` iterations are done of `max_counts`, with which the last
  /// step is made even where they don't divide; -1: not known. Warns (TORCH_WARN) where init_counts
  /// is no multiple of accumulative_counts (the gradients of the iterations since are lost, unless
  /// `load` brings them back), and where a batch normalisation sees the parts of an accumulated
  /// batch one by one.
  void initialize_count_status(const torch::nn::Module& model, int64_t init_counts,
                               int64_t max_counts) override;

  /// "lr"; with several groups also "base_lr", that of base_settings().
  GroupValues get_lr() const override;
  GroupValues get_momentum() const override;

  /// With several groups: the optimizer's defaults as a group without parameters, whose rate a
  /// schedule moves along (LRScheduler::also_set), so that there is one rate to show. Null with one
  /// group, which has it.
  torch::optim::OptimizerOptions* base_settings() { return base_settings_.get(); }

  /// The optimizer, and its groups.
  torch::optim::Optimizer& optimizer() { return *optimizer_; }
  const torch::optim::Optimizer& optimizer() const { return *optimizer_; }
  std::vector<torch::optim::OptimizerParamGroup>& param_groups() {
    return optimizer_->param_groups();
  }
  const std::vector<torch::optim::OptimizerParamGroup>& param_groups() const {
    return std::as_const(*optimizer_).param_groups();
  }

  const OptimWrapperOptions& options() const { return options_; }
  int64_t accumulative_counts() const { return options_.accumulative_counts(); }

  /// Iterations so far, from init_counts on.
  int64_t inner_count() const { return inner_count_; }
  /// Goes on from another count, without the warnings of initialize_count_status.
  void set_inner_count(int64_t value) { inner_count_ = value; }
  /// As initialize_count_status set it; -1: not known.
  int64_t max_counts() const { return max_counts_; }
  /// What is left of max_counts after whole accumulations; -1: not known.
  int64_t remainder_counts() const { return remainder_counts_; }
  /// Whether gradients of earlier iterations wait for their step.
  bool is_accumulating() const { return inner_count_ > 0 && !should_update(); }

  /// The norm of the unscaled gradients at the last step, before clipping: 0-dim float32 on their
  /// device; undefined without ClipGrad::norm and before the first step. inf or NaN where they
  /// overflowed. Reading it syncs, having it does not.
  const at::Tensor& grad_norm() const { return grad_norm_; }

  /// Called by `backward` with its loss, which the return value takes the place of, before the
  /// scale of an AmpOptimWrapper: what exchanges gradients with other ranks gets ready here where
  /// should_sync(). An empty function: none.
  void before_backward(std::function<at::Tensor(const at::Tensor&)> observer) {
    before_backward_ = std::move(observer);
  }
  /// Called by `step` when all gradients are there and before anything is changed, and with its
  /// result when all is done: what a loop needs to account for steps that it does not make itself.
  /// What it throws passes through. An empty function: none.
  void before_step(std::function<void()> observer) { before_step_ = std::move(observer); }
  void after_step(std::function<void(const StepResult&)> observer) {
    after_step_ = std::move(observer);
  }

  /// Throws: this wrapper has no name.
  OptimWrapper& operator[](const std::string& name) override;
  std::vector<std::pair<std::string, OptimWrapper*>> named_wrappers() override {
    return {{"", this}};
  }

  /// The optimizer's own keys, "inner_count", and "gradients" where is_accumulating().
  void save(torch::serialize::OutputArchive& archive) const override;
  /// Takes what a plain optimizer of the class saved, too: the count stays then. Unknown keys, as
  /// an AmpOptimWrapper's "loss_scaler", are not read.
  void load(torch::serialize::InputArchive& archive) override;

  void print(std::ostream& stream) const override;

 protected:
  /// The class's name, which opens messages.
  virtual const char* type_name() const { return "OptimWrapper"; }
  /// The differences of an AmpOptimWrapper: backward of the loss, a step of clipped gradients, the
  /// precision of a forward.
  virtual void run_backward(const at::Tensor& loss);
  virtual StepResult run_step();
  /// Makes what a step divides by visible in the gradients, before they are clipped outside of the
  /// optimizer.
  virtual void unscale_gradients() {}
  virtual std::optional<AutocastOptions> autocast() const { return std::nullopt; }
  virtual bool rehearses() const { return false; }

 private:
  StepResult clip_and_step();

  std::shared_ptr<torch::optim::Optimizer> optimizer_;
  OptimWrapperOptions options_;
  std::unique_ptr<torch::optim::OptimizerOptions> base_settings_;
  int64_t inner_count_ = 0;
  int64_t max_counts_ = -1;
  int64_t remainder_counts_ = -1;
  at::Tensor grad_norm_;
  std::function<at::Tensor(const at::Tensor&)> before_backward_;
  std::function<void()> before_step_;
  std::function<void(const StepResult&)> after_step_;
};

}  // namespace halfstep
