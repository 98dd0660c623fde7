#include "halfstep/train/optim/build_optimizer.h"

#include "halfstep/core/error.h"
#include "halfstep/train/optim/paramwise.h"
#include "halfstep/train/registry/registry.h"

#include <algorithm>
#include <set>
#include <utility>

namespace halfstep::train {

namespace {

using torch::optim::OptimizerParamGroup;

struct Group {
  std::map<std::string, GroupOption> options;
  std::vector<torch::Tensor> tensors;
  std::vector<std::string> names;
};

std::vector<ParamwiseParameter> all_trained(const torch::nn::Module& module) {
  std::vector<ParamwiseParameter> result;
  std::set<const c10::TensorImpl*> known;
  for (const auto& item : module.named_parameters()) {
    const auto& tensor = item.value();
    if (tensor.requires_grad() && known.insert(tensor.unsafeGetTensorImpl()).second)
      result.push_back({item.key(), tensor, {}});
  }
  return result;
}

void check_any(const std::vector<torch::Tensor>& tensors) {
  HALFSTEP_CHECK_USAGE(
      !tensors.empty(), "train",
      "a model must have parameters to train, but this one has none; leave requires_grad on "
      "for some of them");
}

// Those with the same options side by side, the ones without first.
std::vector<Group> grouped(const std::vector<ParamwiseParameter>& parameters) {
  std::vector<Group> groups(1);
  for (const auto& [name, tensor, options] : parameters) {
    auto found =
        std::find_if(groups.begin(), groups.end(),
                     [&options = options](const Group& group) { return group.options == options; });
    if (found == groups.end()) found = groups.insert(found, Group{options, {}, {}});
    found->tensors.push_back(tensor);
    found->names.push_back(name);
  }
  std::erase_if(groups, [](const Group& group) { return group.tensors.empty(); });
  return groups;
}

/// The options of a group, made by the optimizer's factory.
std::unique_ptr<torch::optim::OptimizerOptions> make_options(const Config& mapping,
                                                             const Group& group) {
  auto own = mapping.copy();
  for (const auto& [key, option] : group.options) own.set(key, option.value.dump(), option.place);
  const auto optimizer = optimizers().build(own, group.tensors);
  own.finish();
  return optimizer->param_groups().front().options().clone();
}

// The optimizer has one group by now, with options as its mapping gives them.
void regroup(torch::optim::Optimizer& optimizer, const Config& mapping,
             const std::vector<Group>& groups) {
  std::vector<OptimizerParamGroup> made;
  for (const auto& group : groups)
    made.emplace_back(group.tensors, group.options.empty()
                                         ? optimizer.param_groups().front().options().clone()
                                         : make_options(mapping, group));
  optimizer.param_groups() = std::move(made);
}

}  // namespace

BuiltOptimizer build_optimizer(Config& optim_wrapper, const torch::nn::Module& module,
                               const std::string& prefix) {
  BuiltOptimizer built;
  auto mapping = optim_wrapper.child("optimizer");
  std::vector<torch::Tensor> tensors;
  for (const auto& parameter : all_trained(module)) {
    built.parameter_names.push_back(prefix + parameter.name);
    tensors.push_back(parameter.tensor);
  }
  check_any(tensors);
  built.optimizer = optimizers().build(mapping, tensors);
  const auto paramwise_cfg = optim_wrapper.child_if("paramwise_cfg");
  if (!paramwise_cfg) return built;

  ParamwiseRules rules(*paramwise_cfg, mapping);
  const auto base_lr = built.optimizer->param_groups().front().options().get_lr();
  const auto parameters = rules.apply(module, base_lr);
  built.warnings = rules.warnings();
  for (const auto& [name, tensor, options] : parameters)
    for (const auto& [key, option] : options)
      built.notes.push_back("paramwise_options -- " + prefix + name + ":" + key + "=" +
                            option.value.dump());
  const auto groups = grouped(parameters);
  regroup(*built.optimizer, mapping, groups);
  built.parameter_names.clear();
  for (const auto& group : groups)
    for (const auto& name : group.names) built.parameter_names.push_back(prefix + name);
  return built;
}

}  // namespace halfstep::train
