#pragma once
#include "halfstep/graph/backward_gradient.h"
#include "halfstep/graph/graph_config.h"
#include "halfstep/graph/optimizer_steps.h"
#include "halfstep/graph/recording.h"
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/scaling/grad_scaler.h"

#include <any>
#include <atomic>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

namespace halfstep {

namespace detail {
class ForwardCalls;
}

/// What Graph is without the types of its inputs and outputs: a torch::nn::Module, so that
/// register_module, train(), eval(), to(), parameters() and torch::save are as everywhere.
///
/// Not for use by two threads at once (a UsageError); by one after the other it is.
class GraphBase : public torch::nn::Module {
 public:
  /// How steps are recorded; a change makes the next call record anew.
  GraphConfig& config() { return config_; }
  const GraphConfig& config() const { return config_; }

  /// Steps this optimizer, and then its schedule, at the end of each call, and zeroes its
  /// gradients. Several are stepped in the order they were added. They must outlive the graph.
  /// Throws UsageError for one that was added before, and for LBFGS, which needs a closure.
  void add_optimizer(torch::optim::Optimizer& optimizer);
  void add_optimizer(torch::optim::Optimizer& optimizer, optim::LRScheduler& scheduler);

  /// Scales the loss that build calls backward() on, and unscales, checks, skips and updates by
  /// this scaler. Dynamic and static ones (oneflow_static). It must outlive the graph. As in
  /// OneFlow the initial gradient is scaled, not the loss, so that a float16 loss does not
  /// overflow.
  void set_grad_scaler(GradScaler& scaler);

  /// Names a tensor that build uses beside its inputs and what modules hold. It is read as it is
  /// at each call. Throws UsageError for an undefined one.
  void add_tensor(std::string name, const at::Tensor& tensor);

  /// How often build ran to be recorded, and how often a recording took its place.
  int64_t recorded_steps() const { return recorded_steps_; }
  int64_t replayed_steps() const { return replayed_steps_; }
  /// Why the last call ran build; empty where it did not.
  const std::string& last_reason() const { return last_reason_; }

  /// How often a replay was one launch of a CUDA graph, and why the last one was not: because it
  /// warms up, or what could not be captured. Empty where it was one, and where none is asked for:
  /// on the CPU, and without the pass "cuda_graph".
  int64_t captured_steps() const { return captured_steps_; }
  const std::string& why_not_captured() const { return why_not_captured_; }

  /// Why the optimizers' steps were not part of the last launch but came after it; empty where they
  /// were, and where there was no launch or there are no optimizers.
  const std::string& why_step_not_captured() const { return why_step_not_captured_; }

  /// What the last call replays or recorded, one line an op; empty before the first.
  std::string program() const;

  /// What the last call's ops were planned to run in; empty before the first call, and where
  /// config() asks for no plan. Print it, save it, or change it and give it to
  /// config().set_precision_plan().
  PrecisionPlan precision_plan() const;

  /// Tells on `out` what happens: -1 nothing (the default), 0 when and why a step is recorded, 1
  /// the precision plan, what the passes did and the program that came of them, 2 the program
  /// before them, too, 3 also after each. Throws UsageError for other levels.
  void debug(int level, std::ostream& out);

  /// Modules' parameters and buffers, and the loss scale, the optimizers' states and their
  /// schedules beside them, so that a run goes on from a file as it would have without, before the
  /// first call or after it. (Difference from OneFlow, which loads before the first call only.)
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  /// Drops all recordings: for changes that nothing tells of, as of a tensor that build closes
  /// over. Throws UsageError from within build, as all that changes the graph does.
  void forget_recordings();

 protected:
  /// Inputs and outputs without their nesting, and what computes the one from the other.
  using Tensors = std::vector<at::Tensor>;
  using Build = std::function<Tensors(const Tensors&)>;

  /// `name` is what name() gives.
  explicit GraphBase(std::string name) : torch::nn::Module(std::move(name)) {}

  /// One call on flat inputs. `structure` tells inputs of one nesting from another's; `build` makes
  /// `shape` where it runs, and finds it as it was where it did not.
  Tensors call(const Tensors& inputs, const std::vector<size_t>& structure, const Build& build,
               std::any& shape);

 private:
  class InUse;

  Tensors run_part(const Tensors& inputs, const std::vector<size_t>& structure, const Build& build,
                   std::any& shape);
  void prepare(const Tensors& inputs);
  void step();
  at::Tensor start_of_backward(const at::Tensor& loss) const;
  Tensors run_build(const Tensors& inputs, const Build& build,
                    const std::shared_ptr<detail::ForwardCalls>& calls = nullptr) const;
  Tensors run_planned(const detail::Recording& recording, const Tensors& inputs,
                      const Build& build) const;
  PrecisionPlan make_plan(const Tensors& inputs, const Build& build) const;
  Tensors plan_and_record(detail::Recording& recording, const Tensors& inputs, const Build& build);
  bool plans_precision() const { return config_.amp_enabled() && config_.plans_precision(); }
  Tensors record(detail::Recording& recording, const Tensors& inputs, const Build& build);
  void run_passes(detail::Program& program) const;
  std::unique_ptr<detail::CapturedReplay> make_capture(const detail::Recording& recording) const;
  Tensors replay(detail::Recording& recording, const Tensors& inputs, const Build& build,
                 const std::string& why_no_step);
  detail::Recording& recording_for(const Tensors& inputs, const std::vector<size_t>& structure);
  void drop_outdated();
  void tell(const std::string& reason);
  std::vector<std::pair<std::string, at::Tensor>> known_tensors() const;
  Tensors trained_parameters() const;
  c10::Device device_of(const Tensors& inputs) const;

  GraphConfig config_;
  int64_t config_version_ = 0;
  std::vector<detail::SteppedOptimizer> optimizers_;
  GradScaler* scaler_ = nullptr;
  at::Tensor scale_;
  std::vector<std::pair<std::string, at::Tensor>> tensors_;
  Tensors parameters_;  // those that get gradients, while a call runs
  std::vector<std::unique_ptr<detail::Recording>> recordings_;  // the last used one last
  int64_t recorded_steps_ = 0, replayed_steps_ = 0, captured_steps_ = 0;
  std::string last_reason_, why_not_captured_, why_step_not_captured_;
  const detail::StepCapture* launched_step_ = nullptr;  // of the call that runs
  int debug_level_ = -1;
  std::ostream* debug_out_ = nullptr;
  std::atomic<bool> in_use_ = false;
};

/// The modules of a graph, how often it recorded and replayed, and its program() as text. Does not
/// sync. (As OneFlow's print of a graph.)
std::ostream& operator<<(std::ostream& out, const GraphBase& graph);

}  // namespace halfstep
