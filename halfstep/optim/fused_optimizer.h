#pragma once
#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/optim/fused_batch.h"
#include "halfstep/optim/fused_options.h"
#include "halfstep/optim/fused_state.h"
#include "halfstep/optim/layout.h"
#include "halfstep/optim/master_weights.h"
#include "halfstep/optim/step_item.h"
#include "halfstep/optim/step_kernels.h"
#include "halfstep/scaling/takes_grad_scale.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::optim {

/// Base of Adam, AdamW, SGD and Adagrad of this namespace: torch::optim::Optimizer subclasses whose
/// `step` is made by fused kernels, for parameters in float32, float64, bfloat16 and float16 on CPU
/// and CUDA. With a GradScaler they divide by the scale and skip on overflow on the device and
/// never sync.
///
///   using halfstep::optim::Adam, halfstep::optim::AdamOptions;
///   Adam adam(net->parameters(), AdamOptions(1e-3).clip_norm(1));
///
/// On CUDA, and with `kernel(Kernel::aten)`, ATen's kernels run, with the bits of Python's
/// fused=True. Else, on the CPU, kernels of our own run: at most two passes over memory in all, one
/// that checks the gradients and takes their norm and one that unscales, clips and updates,
/// whatever the number of tensors. They compute in float32: a parameter that a step moves by at
/// most half of itself is within 2 units in the last place of the exact step, anything else within
/// 3 of its largest term (CPUs without fused multiply-add: 4), and has the same bits for any number
/// of threads and, without clip_norm, any layout. float64 parameters and gradients go to ATen.
///
/// Float32 masters of 16-bit parameters (the option master_weights) are what both kernels step, so
/// all of this holds for them; our CPU kernels write the parameter in the same pass, ATen's take a
/// float32 copy of the gradient, and of a master kept as remainder, for as long as the step runs.
///
/// Parameters, gradients and state may have any strides, gradients any of these dtypes. Parameters
/// without gradient are left alone. What the kernels write gets a new version, and the autocast
/// cache is cleared, so neither autograd nor a region of Autocast goes on with old weights.
///
/// After a step ATen's kernels leave gradients unscaled and clipped, as Python's fused optimizers
/// leave them unscaled. Difference from Python: our own CPU kernels leave gradients as backward
/// made them; call GradScaler::unscale_ (not for float16 gradients) to look at them unscaled.
/// Difference from Python: any layout is right on the CPU too, where Python's kernels ignore
/// strides. Difference from Python: to our own kernels float numbers below the least normal one,
/// 1.2e-38, count as zero. The averages of weights whose gradient stays zero get there after some
/// 800 steps, stay there for good where rounded, and make a step three times as long.
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

  /// For GradScaler. On the CPU it takes the norm in the same pass where clip_norm is set.
  std::optional<FoundInfs> check_gradients() override;

  /// The norm of the unscaled gradients at the last step, before clipping: 0-dim float32; undefined
  /// without clip_norm. inf or NaN where these gradients overflowed. Does not sync.
  const at::Tensor& grad_norm() const { return grad_norm_; }

  /// As the options clip_norm and clip_value, from now on, for optimizers that somebody else made.
  /// StepSettings::kNone: none. Throws UsageError for both, and below 0.
  void set_clipping(double clip_norm, double clip_value);
  /// Whether one of them is set.
  bool clips() const { return settings_.clips_norm() || settings_.clips_value(); }

  /// As the option shadow_weights, from now on, for optimizers that somebody else made. Throws
  /// UsageError where copies are kept already, by this optimizer or other ShadowWeights. A
  /// parameter that is moved to another device afterwards is cast again; make the optimizer after
  /// moving.
  void keep_shadow_weights(c10::ScalarType dtype);
  /// Keeps none from now on.
  void drop_shadow_weights();
  bool keeps_shadow_weights() const { return settings_.shadow_weights.has_value(); }

  /// The float32 master of a parameter, to be read only; see MasterWeights. Undefined before the
  /// parameter's first step and where it has none. Does not sync. With MasterWeights::remainder it
  /// is made for each call.
  at::Tensor master_of(const at::Tensor& parameter) const;

  /// Gives a parameter this float32 master, before its first step too, and writes it, rounded, to
  /// the parameter: how master_of's result comes back to the bit. Throws UsageError for a parameter
  /// that has none, or one of another optimizer, and for another shape.
  void set_master(const at::Tensor& parameter, const at::Tensor& master);

  /// The copy autocast takes in place of `parameter`; undefined where none is kept.
  at::Tensor shadow_of(const at::Tensor& parameter) const;

  // For a step that a CUDA graph holds (the option capturable). Graph does all this by itself; with
  // a CUDA graph of your own, after some eager iterations, gradients staying in the parameters:
  //
  //   backward();                                   // the gradients that are written again below
  //   if (auto why = adam.why_not_captured(device); !why.empty()) …  // step it outside
  //   adam.write_rates();
  //   graph.capture_begin();
  //   backward(); scaler.step(adam);
  //   const auto norm = adam.grad_norm();
  //   const auto update = scaler.queue_update();
  //   graph.capture_end();
  //   const auto facts = adam.captured_facts();
  //   while (adam.captured_facts() == facts) {      // else capture anew
  //     adam.write_rates();                         // where a schedule changed them
  //     graph.replay();
  //     adam.note_step(norm);
  //     scaler.note_update(update);
  //   }

  /// Whether the option is set.
  bool is_capturable() const { return settings_.capturable; }

  /// Why a step with the gradients that are there now can't be captured on `device` and launched
  /// again, as a clause: the option is not set, grad_scale or found_inf are, something lies
  /// elsewhere, a state has yet to be made by a first step, or a master by the next one. Empty
  /// where it can. A class of your own whose step does more is yours to judge. Does not sync.
  std::string why_not_captured(c10::Device device) const;

  /// Brings the learning rates to the device, where they changed. `step` does so itself, a launch
  /// does not. Does not sync.
  void write_rates();

  /// What a captured step with the gradients that are there now goes on with whatever becomes of
  /// it: options but for the rates, and where parameters and state lie.
  struct CapturedFacts {
    std::vector<double> numbers;
    std::vector<const void*> memory;
    bool operator==(const CapturedFacts&) const = default;
  };
  CapturedFacts captured_facts() const;

  /// To be called after each launch of a captured step, with its gradients in the parameters: gives
  /// what it wrote new versions, takes note of masters and shadow weights, and forgets casts.
  /// `grad_norm` is what grad_norm() was after the capture; a copy of it is grad_norm() from now
  /// on. Does not sync.
  void note_step(const at::Tensor& grad_norm);

 protected:
  /// `where` is the class's name, which opens the messages.
  FusedOptimizer(const char* where, const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 std::unique_ptr<FusedOptions> defaults);

  /// The empty state of a parameter, of the optimizer's own class.
  virtual std::unique_ptr<FusedState> make_state() const = 0;

  /// Makes the tensors that `state` lacks for a step with these options: buffers of `dtype` in the
  /// layout of `parameter`, which is dense.
  virtual void fill_state(FusedState& state, const at::Tensor& parameter, c10::ScalarType dtype,
                          const FusedOptions& options) const = 0;

  /// One step of ATen's kernel. `batch.steps` have been incremented.
  virtual void call_aten(const detail::FusedBatch& batch, const FusedOptions& options) const = 0;

  /// The constants of our own kernel for a step that is the `step`th (from 1; 0 where the state has
  /// no counter).
  virtual detail::StepRule make_rule(const FusedOptions& options, double step,
                                     bool is_first_step) const = 0;

  /// True where ATen's CPU kernel of this LibTorch is known to be wrong for parameters of `dtype`:
  /// our own takes them, Kernel::aten or not.
  virtual bool aten_is_wrong(c10::ScalarType) const { return false; }

  /// How many buffers a step with these options uses.
  virtual std::size_t uses_buffers(const FusedOptions& options) const = 0;

  /// -1 where the optimizer climbs, else 1.
  virtual float direction(const FusedOptions& options) const = 0;

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
  /// What the gradients are divided by, for both kinds of kernels.
  struct Divisor {
    std::optional<at::Tensor> tensor;  // 0-dim float32; none: 1
    float factor = 1;                  // one over it; right where everything lies on the CPU
  };

  /// One parameter made ready for a kernel: what that updates is the parameter, its float32 master,
  /// or a copy of either.
  struct Prepared {
    detail::StepItem item;
    FusedState* state;
    std::unique_ptr<torch::optim::OptimizerParamState> fresh;  // the state, where yet to be kept
    // A copy: has yet to be written to the user's. Undefined: is made by step_with_aten.
    detail::WorkTensor parameter, gradient;
    bool is_first_step = false;
    bool has_master = false;
  };

  /// A master that belongs to its parameter as that is.
  struct SettledMaster {
    FusedState* state;
    at::Tensor parameter;
  };

  /// What check_gradients saw, to be used by the step that follows at once.
  struct Checked {
    std::vector<std::pair<at::Tensor, int64_t>> gradients;  // and their versions
    at::Tensor norm;                                        // as they are, scaled: 0-dim float64
  };

  /// A group's learning rate on a device, and what was written there.
  struct Rate {
    at::Tensor tensor;  // 0-dim float32
    double written;
  };

  /// Where a parameter's copy is.
  struct Shadow {
    ShadowWeights* weights;
    std::size_t index;
    const at::Tensor& copy() const { return weights->copy(index); }
  };

  struct AtenFactors;

  const FusedOptions& options_of(std::size_t group) const;
  Prepared prepare(const detail::StepItem& item, bool for_aten);
  static detail::WorkTensor work_gradient(const at::Tensor& gradient, const at::Tensor& layout,
                                          bool for_aten);
  std::vector<SettledMaster> settled_masters() const;
  bool has_master(const at::Tensor& parameter) const;
  bool takes_own_kernel(const detail::StepItem& item) const;
  Divisor make_divisor(const std::vector<detail::StepItem>& items,
                       const std::optional<Checked>& checked);
  at::Tensor norm_of(const std::vector<detail::StepItem>& items);
  void step_with_aten(std::vector<Prepared>& work, const Divisor& divisor);
  void step_part_with_aten(std::vector<Prepared>& work, std::size_t begin, std::size_t end,
                           AtenFactors& factors);
  void step_with_own(std::vector<Prepared>& work, const Divisor& divisor);
  const at::Tensor& rate_on(c10::Device device, std::size_t group);
  const FusedState* state_of(const at::Tensor& parameter) const;
  bool has_state(const detail::StepItem& item) const;
  bool is_settled(const detail::StepItem& item) const;
  void make_shadows(const std::vector<at::Tensor>& parameters);
  void write_shadow(const at::Tensor& parameter) const;
  void note_shadow(const at::Tensor& parameter) const;
  const Shadow* shadow_beside(const at::Tensor& parameter) const;

  const char* where_;
  StepSettings settings_;
  std::unique_ptr<FusedState> stateless_;  // stands in where a parameter needs no state
  std::vector<std::unique_ptr<ShadowWeights>> shadow_weights_;
  std::unordered_map<const c10::TensorImpl*, Shadow> shadows_;
  std::map<std::pair<std::size_t, c10::DeviceIndex>, Rate> rates_;  // by group and device
  std::optional<Checked> checked_;
  at::Tensor grad_norm_;
};

}  // namespace halfstep::optim
