#pragma once
#include "halfstep/optim_wrapper/optim_wrapper.h"

#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace halfstep {

/// Several wrappers by name, for a model with several optimizers. The model takes each by its name
/// and makes its steps; the dict itself does what makes sense for all at once.
///
///   halfstep::OptimWrapperDict wrappers({
///       {"generator", std::make_shared<halfstep::AmpOptimWrapper>(generator_adam)},
///       {"discriminator", std::make_shared<halfstep::AmpOptimWrapper>(discriminator_adam)},
///   });
///   wrappers["generator"].update_params(loss);
class OptimWrapperDict : public OptimWrapperBase {
 public:
  /// The wrappers by name, in the order they were given; and one of them.
  using Wrappers = torch::OrderedDict<std::string, std::shared_ptr<OptimWrapper>>;
  using NamedWrapper = std::pair<std::string, std::shared_ptr<OptimWrapper>>;

  /// Throws UsageError for an empty list, an empty or repeated name, and null. Difference from
  /// MMEngine: what is no wrapper does not compile.
  OptimWrapperDict(std::initializer_list<NamedWrapper> wrappers);
  explicit OptimWrapperDict(const std::vector<NamedWrapper>& wrappers);
  ~OptimWrapperDict() override;

  /// Throw UsageError: which of the wrappers is meant? Call theirs.
  std::optional<StepResult> update_params(const at::Tensor& loss) override;
  void backward(const at::Tensor& loss) override;
  StepResult step() override;
  OptimContext optim_context(torch::nn::Module& model) override;

  /// Those of all wrappers.
  void zero_grad() override;

  /// Nothing, as in MMEngine: how often the model will update each wrapper is its own affair, so
  /// call theirs where it is known.
  void initialize_count_status(const torch::nn::Module& model, int64_t init_counts,
                               int64_t max_counts) override;

  /// "generator.lr", "generator.momentum", …
  GroupValues get_lr() const override;
  GroupValues get_momentum() const override;

  /// Each wrapper's groups by its name.
  std::map<std::string, std::vector<torch::optim::OptimizerParamGroup>*> param_groups();

  /// Throws UsageError for a name that is none.
  OptimWrapper& operator[](const std::string& name) override;
  bool contains(const std::string& name) const { return wrappers_.contains(name); }
  size_t size() const { return wrappers_.size(); }
  std::vector<std::string> keys() const { return wrappers_.keys(); }
  std::vector<std::shared_ptr<OptimWrapper>> values() const { return wrappers_.values(); }
  std::vector<NamedWrapper> items() const;
  std::vector<std::pair<std::string, OptimWrapper*>> named_wrappers() override;

  /// Each wrapper's state under its name. `load` throws UsageError, before anything is loaded,
  /// where the names are not the same (Difference from MMEngine: also where one of ours is
  /// missing).
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  /// "name: generator" and what the wrapper prints, for each.
  void print(std::ostream& stream) const override;

 private:
  Wrappers wrappers_;
};

}  // namespace halfstep
