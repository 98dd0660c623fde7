#include "halfstep/graph/capture/captured_replay.h"

#include "halfstep/graph/capture/capturable.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_strided.h>
#include <c10/util/Exception.h>

namespace halfstep::detail {

namespace {

/// The first line of what an exception says.
std::string first_line(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

at::Tensor copy_of(const at::Tensor& tensor) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return tensor.defined() ? tensor.clone() : tensor;
}

}  // namespace

std::unique_ptr<CapturedReplay> CapturedReplay::make(Replay& replay, const MakeStep& make_step) {
  for (const auto& value : replay.program().values) {
    const auto device = value.geometry.device;
    if (const auto& maker = capture_maker(device.type()))
      return std::unique_ptr<CapturedReplay>(
          new CapturedReplay(replay, device, maker(device), make_step(device)));
  }
  return nullptr;
}

CapturedReplay::CapturedReplay(Replay& replay, c10::Device device,
                               std::unique_ptr<DeviceCapture> capture,
                               std::unique_ptr<StepCapture> step)
    : replay_(replay),
      step_(std::move(step)),
      refused_(why_not_captured(replay.program(), device)),
      capture_(std::move(capture)) {
  for (const auto& value : replay.program().values) {
    if (value.kind != ValueKind::external) continue;
    places_.emplace_back(value.tensor, nullptr);
    place_names_.push_back(value.name);
  }
}

StepResults CapturedReplay::run(at::TensorList inputs, const std::string& why_no_step) {
  launched_step_ = nullptr;
  if (!refused_.empty()) return run_by_op(inputs, refused_);
  if (auto why = capture_->why_not_now(); !why.empty()) return run_by_op(inputs, std::move(why));
  if (captured_ && !has_step_ && !copies_gradients_ && gradients_are_held()) {
    copies_gradients_ = true;
    drop();  // its memory is theirs
    return run_by_op(inputs, "gradients of an earlier step are still held");
  }
  std::string why = "it warms up";
  if (auto outdated = captured_ ? why_outdated(why_no_step) : ""; !outdated.empty()) {
    drop();
    warm_ups_ = next_warm_ups_;
    next_warm_ups_ *= 2;
    why = std::move(outdated);
  }
  if (warm_ups_ > 0) {
    --warm_ups_;
    why_not_ = std::move(why);
    return capture_->warm_up([&] { return replay_.run(inputs); });
  }
  if (!captured_) {
    if (auto put_off = why_put_off(why_no_step); !put_off.empty())
      return run_by_op(inputs, std::move(put_off));
    refused_ = capture(inputs);
  }
  return refused_.empty() ? launch(inputs) : run_by_op(inputs, refused_);
}

std::string CapturedReplay::why_outdated(const std::string& why_no_step) {
  if (auto moved = moved_tensor(); !moved.empty()) return moved + " has other memory";
  if (!has_step_) return "";
  auto why = hindrance(why_no_step);
  if (why.empty() && step_->is_outdated())
    why = hindrance("an optimizer or the scaler was changed");
  return why;
}

/// Why nothing should be captured now; a step that can't be for good is left out from now on.
std::string CapturedReplay::why_put_off(const std::string& why_no_step) {
  if (!step_ || !why_no_step_.empty()) return "";
  why_no_step_ = step_->why_never();
  if (!why_no_step_.empty()) return "";
  auto why = hindrance(why_no_step);
  return why_no_step_.empty() ? why : "";
}

/// What keeps the step from this run, counted.
std::string CapturedReplay::hindrance(const std::string& why_no_step) {
  auto why = why_no_step.empty() ? step_->why_not_now() : why_no_step;
  if (why.empty()) return "";
  hindrances_ = launches_ < kManyLaunches ? hindrances_ + 1 : 1;
  launches_ = 0;
  if (hindrances_ >= kMostHindrances) why_no_step_ = "again and again " + why;
  return why;
}

void CapturedReplay::drop() {
  captured_ = false;
  results_ = {};
  if (step_) step_->forget();
}

StepResults CapturedReplay::run_by_op(at::TensorList inputs, std::string why) {
  why_not_ = std::move(why);
  return replay_.run(inputs);
}

/// Says why nothing can be captured, as a clause; empty where it is now.
std::string CapturedReplay::capture(at::TensorList inputs) {
  has_step_ = step_ != nullptr && why_no_step_.empty();
  while (true) {
    try {
      capture_all(inputs);
      return "";
    } catch (const std::exception& error) {
      drop();
      auto refused = "it was refused: " + first_line(error);
      if (!has_step_) {
        inputs_.clear();
        return refused;
      }
      has_step_ = false;
      why_no_step_ = std::move(refused);
    }
  }
}

void CapturedReplay::capture_all(at::TensorList inputs) {
  if (inputs_.empty()) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (const auto& input : inputs)
      inputs_.push_back(at::empty_strided(input.sizes(), input.strides(), input.options()));
  }
  for (auto& [tensor, place] : places_) place = tensor.const_data_ptr();
  if (has_step_) step_->write_rates();
  const auto run = [this] {
    results_ = replay_.run(inputs_);
    uses_.clear();
    for (const auto& gradient : results_.gradients)
      uses_.push_back(gradient.defined() ? gradient.storage().use_count() : 0);
    if (has_step_) step_->queue(results_.gradients);
  };
  capture_->capture(run, generators_of(replay_.program()));
  captured_ = true;
}

StepResults CapturedReplay::launch(at::TensorList inputs) {
  capture_->launch([&] {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    for (size_t i = 0; i < inputs.size(); ++i) inputs_[i].copy_(inputs[i], /*non_blocking=*/true);
    if (has_step_) step_->write_rates();
  });
  ++launches_;
  replay_.note_writes();
  why_not_.clear();
  StepResults given;
  try {
    for (const auto& output : results_.outputs) given.outputs.push_back(copy_of(output));
    for (const auto& gradient : results_.gradients) {
      if (has_step_)
        given.gradients.emplace_back();
      else
        given.gradients.push_back(copies_gradients_ ? copy_of(gradient) : gradient);
    }
  } catch (...) {
    if (has_step_) step_->note();  // the step was made
    throw;
  }
  if (has_step_) launched_step_ = step_.get();
  return given;
}

bool CapturedReplay::gradients_are_held() const {
  for (size_t i = 0; i < results_.gradients.size(); ++i) {
    const auto& gradient = results_.gradients[i];
    if (gradient.defined() &&
        (gradient.use_count() > 1 || gradient.storage().use_count() > uses_[i]))
      return true;
  }
  return false;
}

std::string CapturedReplay::moved_tensor() const {
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].first.const_data_ptr() != places_[i].second) return place_names_[i];
  }
  return "";
}

}  // namespace halfstep::detail
