#include "halfstep/optim_wrapper/optim_wrapper.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/fused_optimizer.h"
#include "halfstep/optim/momentum.h"
#include "halfstep/optim_wrapper/counts_batches.h"
#include "halfstep/scaling/guarded_step.h"

#include <typeinfo>

#include <ATen/TensorOperators.h>
#include <c10/util/Exception.h>
#include <c10/util/Type.h>
#include <torch/optim/lbfgs.h>

namespace halfstep {

namespace {

constexpr const char* kOptimWrapperWhere = "OptimWrapper";

/// Clipping in the kernel of a fused optimizer for one step, however it ends.
class LentClip {
 public:
  LentClip(optim::FusedOptimizer& optimizer, const ClipGrad& clip) : optimizer_(optimizer) {
    constexpr double none = optim::StepSettings::kNone;
    optimizer_.set_clipping(clip.is_norm() ? clip.limit() : none,
                            clip.is_norm() ? none : clip.limit());
  }
  LentClip(const LentClip&) = delete;
  LentClip& operator=(const LentClip&) = delete;
  ~LentClip() {
    constexpr double none = optim::StepSettings::kNone;
    optimizer_.set_clipping(none, none);
  }

 private:
  optim::FusedOptimizer& optimizer_;
};

std::shared_ptr<torch::optim::Optimizer> unowned(torch::optim::Optimizer& optimizer) {
  return {&optimizer, [](torch::optim::Optimizer*) {}};
}

void check_optimizer(torch::optim::Optimizer* optimizer, const OptimWrapperOptions& options) {
  HALFSTEP_CHECK_USAGE(optimizer != nullptr, kOptimWrapperWhere,
                       "the optimizer must be one, but got null; make it first");
  HALFSTEP_CHECK_USAGE(dynamic_cast<torch::optim::LBFGS*>(optimizer) == nullptr, kOptimWrapperWhere,
                       "an optimizer must step without a closure, but got LBFGS; use "
                       "GradScaler::step, which takes its closure");
  const auto* fused = dynamic_cast<optim::FusedOptimizer*>(optimizer);
  HALFSTEP_CHECK_USAGE(fused == nullptr || !options.clip_grad() || !fused->clips(),
                       kOptimWrapperWhere,
                       "gradients must be clipped in one place, but got clip_grad for an optimizer "
                       "with clip_norm or clip_value of its own; leave one out");
}

}  // namespace

void OptimWrapperOptions::validate(const char* where) const {
  HALFSTEP_CHECK_USAGE(accumulative_counts_ >= 1, where,
                       "accumulative_counts must be at least 1, but got ", accumulative_counts_,
                       "; 1 steps in each iteration");
  if (clip_grad_) clip_grad_->validate(where);
}

OptimWrapper::OptimWrapper(torch::optim::Optimizer& optimizer, const OptimWrapperOptions& options)
    : OptimWrapper(unowned(optimizer), options) {}

OptimWrapper::OptimWrapper(std::shared_ptr<torch::optim::Optimizer> optimizer,
                           const OptimWrapperOptions& options)
    : optimizer_(std::move(optimizer)), options_(options) {
  options_.validate(kOptimWrapperWhere);
  check_optimizer(optimizer_.get(), options_);
  if (param_groups().size() > 1) base_settings_ = optimizer_->defaults().clone();
}

OptimWrapper::~OptimWrapper() = default;

std::optional<StepResult> OptimWrapper::update_params(const at::Tensor& loss) {
  backward(scale_loss(loss));
  if (!should_update()) return std::nullopt;
  auto result = step();
  zero_grad();
  return result;
}

at::Tensor OptimWrapper::scale_loss(const at::Tensor& loss) const {
  int64_t factor = accumulative_counts();
  if (factor > 1 && max_counts_ >= 0 && inner_count_ >= max_counts_ - remainder_counts_) {
    factor = remainder_counts_;
    HALFSTEP_CHECK_USAGE(
        factor > 0 && inner_count_ < max_counts_, "OptimWrapper::scale_loss",
        "iterations must end at the max_counts ", max_counts_,
        " of initialize_count_status, but this is number ", inner_count_ + 1,
        "; call it again with the number of all iterations, or -1, and update once an "
        "iteration");
  }
  return factor == 1 ? loss : loss / factor;
}

void OptimWrapper::backward(const at::Tensor& loss) {
  run_backward(before_backward_ ? before_backward_(loss) : loss);
  ++inner_count_;
}

void OptimWrapper::run_backward(const at::Tensor& loss) {
  loss.backward();
}

StepResult OptimWrapper::step() {
  if (before_step_) before_step_();
  auto result = clip_and_step();
  if (after_step_) after_step_(result);
  return result;
}

StepResult OptimWrapper::clip_and_step() {
  const auto& clip = options_.clip_grad();
  if (!clip) return run_step();
  auto* fused = dynamic_cast<optim::FusedOptimizer*>(optimizer_.get());
  if (fused != nullptr && clip->fits_fused_optimizers()) {
    const LentClip lent(*fused, *clip);
    auto result = run_step();
    if (clip->is_norm()) grad_norm_ = fused->grad_norm();
    return result;
  }
  unscale_gradients();
  if (clip->is_norm())
    grad_norm_ = optim::clip_grad_norm_(*optimizer_, clip->limit(), /*error_if_nonfinite=*/false,
                                        clip->norm_type());
  else
    optim::clip_grad_value_(*optimizer_, clip->limit());
  return run_step();
}

StepResult OptimWrapper::run_step() {
  return StepResult::known(true, {}, detail::step_and_clear_cache(*optimizer_));
}

void OptimWrapper::zero_grad() {
  optimizer_->zero_grad();
}

bool OptimWrapper::should_update() const {
  return inner_count_ % accumulative_counts() == 0 || inner_count_ == max_counts_;
}

bool OptimWrapper::should_sync() const {
  const int64_t next = inner_count_ + 1;
  return next % accumulative_counts() == 0 || next == max_counts_;
}

OptimContext OptimWrapper::optim_context(torch::nn::Module& model) {
  return {should_sync() ? nullptr : dynamic_cast<GradientSync*>(&model), autocast(), rehearses()};
}

void OptimWrapper::initialize_count_status(const torch::nn::Module& model, int64_t init_counts,
                                           int64_t max_counts) {
  HALFSTEP_CHECK_USAGE(init_counts >= 0 && (max_counts == -1 || max_counts >= init_counts),
                       "OptimWrapper::initialize_count_status",
                       "counts must be 0 <= init_counts <= max_counts, but got init_counts ",
                       init_counts, " and max_counts ", max_counts,
                       "; max_counts is the number of all iterations, or -1 where it is not known");
  inner_count_ = init_counts;
  max_counts_ = max_counts;
  remainder_counts_ = max_counts == -1 ? -1 : max_counts % accumulative_counts();
  if (init_counts % accumulative_counts() != 0) {
    TORCH_WARN("[", type_name(), "] init_counts ", init_counts,
               " is no multiple of accumulative_counts ", accumulative_counts(),
               ": the gradients of the iterations since the last step are lost");
  }
  if (accumulative_counts() > 1 && detail::counts_batches(model)) {
    TORCH_WARN("[", type_name(),
               "] the model normalises over batches: with accumulative_counts it sees the parts of "
               "an accumulated batch one by one, which is not the same as the whole");
  }
}

GroupValues OptimWrapper::get_lr() const {
  std::vector<double> rates;
  for (const auto& group : param_groups()) rates.push_back(group.options().get_lr());
  GroupValues values;
  values.insert("lr", std::move(rates));
  if (base_settings_) values.insert("base_lr", {base_settings_->get_lr()});
  return values;
}

GroupValues OptimWrapper::get_momentum() const {
  std::vector<double> momenta;
  for (const auto& group : param_groups())
    momenta.push_back(optim::get_momentum(group.options()).value_or(0));
  GroupValues values;
  values.insert("momentum", std::move(momenta));
  return values;
}

OptimWrapper& OptimWrapper::operator[](const std::string& name) {
  halfstep::detail::raise<UsageError>(
      "OptimWrapper",
      "a wrapper is asked for by name where there are several, but this one stands "
      "alone and got '",
      name,
      "'; give each optimizer a name (OptimWrapperDict, in a config constructor: "
      "OptimWrapperConstructor), or leave the name out");
}

void OptimWrapper::print(std::ostream& stream) const {
  const torch::optim::Optimizer& optimizer = *optimizer_;
  stream << "Type: " << type_name() << "\naccumulative_counts: " << accumulative_counts() << '\n';
  if (options_.clip_grad()) stream << "clip_grad: " << options_.clip_grad()->describe() << '\n';
  stream << "optimizer: " << c10::demangle(typeid(optimizer).name()) << '\n';
  const auto rates = get_lr()["lr"];
  const auto momenta = get_momentum()["momentum"];
  for (size_t i = 0; i < rates.size(); ++i)
    stream << "  group " << i << ": " << param_groups()[i].params().size() << " parameters, lr "
           << rates[i] << ", momentum " << momenta[i] << '\n';
}

}  // namespace halfstep
