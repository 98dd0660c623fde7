#pragma once
#include "halfstep/optim_wrapper/optim_context.h"
#include "halfstep/scaling/step_result.h"

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/ordered_dict.h>
#include <torch/serialize/archive.h>

namespace halfstep {

class OptimWrapper;

/// One number for each parameter group, by name: "lr", "momentum"; "generator.lr" where there are
/// several optimizers.
using GroupValues = torch::OrderedDict<std::string, std::vector<double>>;

/// What a model's training step is given: an OptimWrapper (or AmpOptimWrapper) around its one
/// optimizer, or an OptimWrapperDict of several. A model with one optimizer calls `optim_context`
/// and `update_params`; one with several takes each by its name and calls them there:
///
///   void train_step(const Batch& batch, OptimWrapperBase& optim_wrapper) {
///     auto& generator = optim_wrapper["generator"];
///     …
///     generator.update_params(loss);
///   }
///
/// Not for use by two threads at once. Errors are UsageErrors.
class OptimWrapperBase {
 public:
  OptimWrapperBase() = default;
  virtual ~OptimWrapperBase();
  // Optimizers know them by their address.
  OptimWrapperBase(const OptimWrapperBase&) = delete;
  OptimWrapperBase& operator=(const OptimWrapperBase&) = delete;

  /// See OptimWrapper. An OptimWrapperDict, which can't know whose call it is, throws UsageError
  /// for these.
  virtual std::optional<StepResult> update_params(const at::Tensor& loss) = 0;
  virtual void backward(const at::Tensor& loss) = 0;
  virtual StepResult step() = 0;
  virtual OptimContext optim_context(torch::nn::Module& model) = 0;

  /// Drops all gradients.
  virtual void zero_grad() = 0;

  /// See OptimWrapper; an OptimWrapperDict does nothing.
  virtual void initialize_count_status(const torch::nn::Module& model, int64_t init_counts,
                                       int64_t max_counts) = 0;

  /// The groups' learning rates, and momenta (SGD's and RMSprop's momentum, Adam's first beta, 0
  /// where there is none).
  virtual GroupValues get_lr() const = 0;
  virtual GroupValues get_momentum() const = 0;

  /// The wrapper of this name. Throws UsageError for a name that is none, and from a wrapper that
  /// stands alone, which has no name.
  virtual OptimWrapper& operator[](const std::string& name) = 0;

  /// All wrappers with their names, in order; one that stands alone has the name "".
  virtual std::vector<std::pair<std::string, OptimWrapper*>> named_wrappers() = 0;

  /// Everything a run needs to go on with the same bits but the parameters: so torch::save and
  /// torch::load work. Gradients are in it where an accumulation is under way. Syncs. `load` throws
  /// EnvironmentError for what `save` did not write.
  virtual void save(torch::serialize::OutputArchive& archive) const = 0;
  virtual void load(torch::serialize::InputArchive& archive) = 0;

  /// For a person: type, accumulative_counts, clipping, the optimizer and its groups.
  virtual void print(std::ostream& stream) const = 0;
};

/// Calls print().
std::ostream& operator<<(std::ostream& stream, const OptimWrapperBase& wrapper);

/// What torch::save and torch::load call.
torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive,
                                            const OptimWrapperBase& wrapper);
torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive,
                                           OptimWrapperBase& wrapper);

}  // namespace halfstep
