#include "halfstep/optim_wrapper/amp_optim_wrapper.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/dialects.h"

#include <utility>

#include <ATen/autocast_mode.h>

namespace halfstep {

namespace {

constexpr const char* kAmpOptimWrapperWhere = "AmpOptimWrapper";
constexpr const char* kLossScaler = "loss_scaler";
constexpr const char* kFallenTo = "fallen_to";

c10::DeviceType device_type_of(const OptimWrapper& wrapper) {
  for (const auto& group : wrapper.param_groups())
    if (!group.params().empty()) return group.params().front().device().type();
  halfstep::detail::raise<UsageError>(
      kAmpOptimWrapperWhere,
      "the optimizer must have parameters, whose device is autocast's, but has none; make "
      "the wrapper after they are added");
}

c10::ScalarType dtype_of(const AmpOptimWrapperOptions& options, c10::DeviceType device_type) {
  const auto dtype = options.dtype().value_or(at::autocast::get_autocast_dtype(device_type));
  HALFSTEP_CHECK_USAGE(is_low_precision(dtype), kAmpOptimWrapperWhere,
                       "dtype must be float16 or bfloat16, but got ", dtype_name(dtype),
                       "; for full precision use OptimWrapper");
  return dtype;
}

GradScalerOptions scaler_options(const AmpOptimWrapperOptions& options, c10::DeviceType device_type,
                                 c10::ScalarType dtype) {
  GradScalerOptions result(device_type);
  if (const auto* given = std::get_if<GradScalerOptions>(&options.loss_scale())) {
    result = *given;
  } else if (const auto* scale = std::get_if<double>(&options.loss_scale())) {
    result = dialects::mmcv_static(*scale);
  } else {
    const auto& word = std::get<std::string>(options.loss_scale());
    HALFSTEP_CHECK_USAGE(word == "dynamic", kAmpOptimWrapperWhere,
                         "loss_scale must be \"dynamic\", a number or GradScalerOptions, but got "
                         "\"",
                         word, "\"; \"dynamic\" is the default");
    result.enabled(dtype == c10::kHalf);
  }
  return result.device_type(device_type);
}

}  // namespace

AmpOptimWrapper::AmpOptimWrapper(torch::optim::Optimizer& optimizer,
                                 const AmpOptimWrapperOptions& options)
    : AmpOptimWrapper(
          std::shared_ptr<torch::optim::Optimizer>(&optimizer, [](torch::optim::Optimizer*) {}),
          options) {}

AmpOptimWrapper::AmpOptimWrapper(std::shared_ptr<torch::optim::Optimizer> optimizer,
                                 const AmpOptimWrapperOptions& options)
    : OptimWrapper(std::move(optimizer), options),
      device_type_(device_type_of(*this)),
      dtype_(dtype_of(options, device_type_)),
      policy_(options.policy()),
      scaler_(scaler_options(options, device_type_, dtype_)) {}

AmpOptimWrapper::~AmpOptimWrapper() = default;

void AmpOptimWrapper::run_backward(const at::Tensor& loss) {
  scaler_.scale(loss).backward();
}

void AmpOptimWrapper::unscale_gradients() {
  scaler_.unscale_(optimizer());
}

StepResult AmpOptimWrapper::run_step() {
  last_result_ = scaler_.step(optimizer());
  scaler_.update();
  return *last_result_;
}

std::optional<AutocastOptions> AmpOptimWrapper::autocast() const {
  return AutocastOptions(device_type_).enabled(dtype_ != c10::kFloat).dtype(dtype_).policy(policy_);
}

bool AmpOptimWrapper::rehearses() const {
  return device_type_ == c10::kCPU && dtype_ == c10::kHalf;
}

void AmpOptimWrapper::fall_back() {
  skipped_before_ = skipped_steps();
  zero_grad();
  dtype_ = dtype_ == c10::kHalf ? c10::kBFloat16 : c10::kFloat;
  scaler_ = GradScaler(GradScalerOptions(device_type_).enabled(false));
  fell_back_ = true;
}

void AmpOptimWrapper::save(torch::serialize::OutputArchive& archive) const {
  OptimWrapper::save(archive);
  if (fell_back_) archive.write(kFallenTo, c10::IValue(dtype_name(dtype_)));
  if (!scaler_.is_enabled()) return;
  torch::serialize::OutputArchive scaler(archive.compilation_unit());
  scaler_.save(scaler);
  archive.write(kLossScaler, scaler);
}

void AmpOptimWrapper::load(torch::serialize::InputArchive& archive) {
  c10::IValue fallen_to;
  if (archive.try_read(kFallenTo, fallen_to) && fallen_to.isString()) {
    const auto& dtype = fallen_to.toStringRef();
    while (dtype_ != c10::kFloat && dtype_name(dtype_) != dtype) fall_back();
  }
  OptimWrapper::load(archive);
  torch::serialize::InputArchive scaler;
  if (archive.try_read(kLossScaler, scaler)) scaler_.load(scaler);
}

void AmpOptimWrapper::print(std::ostream& stream) const {
  OptimWrapper::print(stream);
  stream << "dtype: " << dtype_name(dtype_) << "\nloss scale: ";
  const auto& options = scaler_.options();
  if (!options.enabled())
    stream << "off\n";
  else
    stream << (options.dynamic() ? "dynamic, from " : "static ") << options.init_scale() << '\n';
}

}  // namespace halfstep
