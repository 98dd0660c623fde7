#include "halfstep/graph/graph_base.h"

#include "halfstep/core/error.h"
#include "halfstep/graph/gradients_before.h"

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/autograd.h>
#include <torch/optim/lbfgs.h>

namespace halfstep {

/// Refuses a second call while one runs.
class GraphBase::InUse {
 public:
  explicit InUse(std::atomic<bool>& in_use) : in_use_(in_use) {
    HALFSTEP_CHECK_USAGE(!in_use_.exchange(true), "Graph",
                         "a graph runs one call at a time, but was called while it ran; give each "
                         "thread its own, and don't call a graph from its own build");
  }
  ~InUse() { in_use_ = false; }

 private:
  std::atomic<bool>& in_use_;
};

void GraphBase::add_optimizer(torch::optim::Optimizer& optimizer) {
  HALFSTEP_CHECK_USAGE(
      dynamic_cast<torch::optim::LBFGS*>(&optimizer) == nullptr, "Graph::add_optimizer",
      "an optimizer must step without a closure, but got an LBFGS, which evaluates "
      "the loss several times a step; let the graph make loss and gradients in the "
      "closure, and call its step() yourself");
  for (const auto& stepped : optimizers_)
    HALFSTEP_CHECK_USAGE(stepped.optimizer != &optimizer, "Graph::add_optimizer",
                         "each optimizer is added once, but this one is here already; add another");
  forget_recordings();
  optimizers_.push_back({&optimizer, nullptr});
}

void GraphBase::add_optimizer(torch::optim::Optimizer& optimizer, optim::LRScheduler& scheduler) {
  add_optimizer(optimizer);
  optimizers_.back().scheduler = &scheduler;
}

void GraphBase::set_grad_scaler(GradScaler& scaler) {
  forget_recordings();
  scaler_ = &scaler;
}

void GraphBase::add_tensor(std::string name, const at::Tensor& tensor) {
  HALFSTEP_CHECK_USAGE(tensor.defined(), "Graph::add_tensor", "\"", name,
                       "\" must be a defined tensor, but got an undefined one; make it first");
  forget_recordings();
  tensors_.emplace_back(std::move(name), tensor);
}

void GraphBase::forget_recordings() {
  HALFSTEP_CHECK_USAGE(!in_use_, "Graph",
                       "a graph must not be changed while it runs, but build or another thread "
                       "called forget_recordings(), add_tensor(), add_optimizer() or "
                       "set_grad_scaler(); call it before the graph");
  recordings_.clear();
}

namespace {

using Tensors = std::vector<at::Tensor>;

/// Part `part` of `parts` along dimension 0.
at::Tensor part_of(const at::Tensor& input, int64_t part, int64_t parts) {
  if (!input.defined()) return input;
  HALFSTEP_CHECK_USAGE(
      input.dim() > 0 && input.size(0) % parts == 0, "Graph",
      "with gradient accumulation dimension 0 of each input must be a multiple of ", parts,
      ", but got ", input.sizes(), "; leave out what is over");
  const auto size = input.size(0) / parts;
  return input.narrow(0, part * size, size);
}

/// Autograd's thread of a GPU holds on to the last node it ran, and so to a parameter, until it is
/// given another.
void let_go_of_nodes(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::InferenceMode normal_mode(false);
  const at::AutoGradMode with_gradients(true);
  const auto one = at::ones({}, at::TensorOptions(device)).requires_grad_();
  torch::autograd::backward({one * 1}, {});
}

at::Tensor put_together(const Tensors& parts) {
  if (!parts.front().defined()) return {};
  return parts.front().dim() == 0 ? at::stack(parts) : at::cat(parts);
}

}  // namespace

GraphBase::Tensors GraphBase::call(const Tensors& inputs, const std::vector<size_t>& structure,
                                   const Build& build, std::any& shape) {
  const InUse in_use(in_use_);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) continue;
    HALFSTEP_CHECK_USAGE(!inputs[i].requires_grad(), "Graph",
                         "inputs must not require gradients, but input ", i,
                         " does; pass it detached, or register it as a parameter");
    // A program of dense kernels does not look at these bits.
    HALFSTEP_CHECK_USAGE(!inputs[i].is_conj() && !inputs[i].is_neg(), "Graph",
                         "inputs must hold their values, but input ", i,
                         " is a conjugate or negative view; pass resolve_conj() or resolve_neg()");
  }
  prepare(inputs);
  last_reason_.clear();
  why_not_captured_.clear();
  why_step_not_captured_.clear();
  launched_step_ = nullptr;
  const auto parts = config_.gradient_accumulation_steps();
  std::vector<Tensors> outputs;  // of each part
  std::optional<detail::GradientsBefore> before;
  if (parts > 1) before.emplace(trained_parameters());
  try {
    for (int64_t part = 0; part < parts; ++part) {
      Tensors of_part = inputs;
      if (parts > 1) {
        for (auto& input : of_part) input = part_of(input, part, parts);
      }
      outputs.push_back(run_part(of_part, structure, build, shape));
    }
  } catch (...) {
    if (before) before->restore();
    throw;
  }
  if (!optimizers_.empty()) step();
  if (!last_reason_.empty()) {
    let_go_of_nodes(device_of(inputs));
    for (auto& recording : recordings_) {
      if (recording->watched) recording->watched->count_uses();
    }
  }
  if (parts == 1) return std::move(outputs.front());
  Tensors together;
  for (size_t i = 0; i < outputs.front().size(); ++i) {
    Tensors one;
    for (const auto& of_part : outputs) one.push_back(of_part[i]);
    together.push_back(put_together(one));
  }
  return together;
}

void GraphBase::prepare(const Tensors& inputs) {
  if (config_version_ != config_.version()) {
    recordings_.clear();
    config_version_ = config_.version();
  }
  if (scaler_ == nullptr || !scaler_->is_enabled()) {
    if (scale_.defined()) recordings_.clear();  // one took its place that does not scale
    scale_ = at::Tensor();
    return;
  }
  // A scaler makes its tensor for the first loss it scales.
  if (!scaler_->get_scale_async().defined())
    scaler_->scale(at::zeros({}, at::TensorOptions(device_of(inputs))));
  if (!scale_.is_same(scaler_->get_scale_async())) {
    recordings_.clear();
    scale_ = scaler_->get_scale_async();
  }
}

void GraphBase::step() {
  if (launched_step_ != nullptr) return launched_step_->note();
  bool any = false;
  for (const auto& parameter : parameters_) any = any || parameter.grad().defined();
  HALFSTEP_CHECK_USAGE(any, "Graph",
                       "a graph with optimizers must compute gradients, but no parameter got one; "
                       "call loss.backward() in build, or use a graph without optimizers");
  const detail::OptimizerSteps steps(optimizers_, scaler_);
  steps.note(steps.queue());
}

GraphBase::Tensors GraphBase::run_part(const Tensors& inputs, const std::vector<size_t>& structure,
                                       const Build& build, std::any& shape) {
  auto& recording = recording_for(inputs, structure);
  if (!recording.replay) recording.parameters = trained_parameters();
  parameters_ = recording.parameters;
  // The step's own gradients alone: others are there already, of an earlier part or the user's.
  Tensors earlier;
  bool had_gradients = false;
  for (const auto& parameter : parameters_) {
    earlier.push_back(parameter.grad());
    had_gradients = had_gradients || parameter.grad().defined();
    parameter.mutable_grad() = at::Tensor();
  }
  Tensors outputs;
  try {
    const std::string why_no_step = had_gradients ? "gradients were there before the call" : "";
    outputs = recording.replay ? replay(recording, inputs, build, why_no_step)
                               : record(recording, inputs, build);
  } catch (...) {
    for (size_t i = 0; i < earlier.size(); ++i) parameters_[i].mutable_grad() = earlier[i];
    recordings_.clear();
    throw;
  }
  if (recording.replay && last_reason_.empty()) {
    shape = recording.shape;
  } else {
    recording.shape = shape;
  }
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < earlier.size(); ++i) {
    if (!earlier[i].defined()) continue;
    auto& gradient = parameters_[i].mutable_grad();
    gradient = gradient.defined() ? earlier[i].add_(gradient) : earlier[i];
  }
  return outputs;
}

at::Tensor GraphBase::start_of_backward(const at::Tensor& loss) const {
  HALFSTEP_CHECK_USAGE(loss.numel() == 1, "Graph",
                       "build must call backward() on a scalar, but got a tensor of ", loss.sizes(),
                       "; take its mean() or sum()");
  const auto parts = config_.gradient_accumulation_steps();
  if (!scale_.defined() && parts == 1) return {};
  auto start = scale_.defined() ? scale_ : at::ones({}, loss.options());
  if (parts > 1) start = start * (1.0 / double(parts));
  return start.to(loss.scalar_type()).expand(loss.sizes());
}

c10::Device GraphBase::device_of(const Tensors& inputs) const {
  for (const auto& parameter : this->parameters()) return parameter.device();
  for (const auto& input : inputs) {
    if (input.defined()) return input.device();
  }
  return c10::kCPU;
}

}  // namespace halfstep
