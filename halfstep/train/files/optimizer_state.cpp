#include "halfstep/train/files/optimizer_state.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/archive_tree.h"
#include "halfstep/train/files/module_state.h"

#include <set>
#include <typeinfo>

#include <c10/util/Type.h>

namespace halfstep::train {
namespace {

using nlohmann::json;
using torch::optim::Optimizer;

struct Parameter {
  std::string name;
  at::Tensor tensor;
};

std::string class_name(const Optimizer& optimizer) {
  return c10::demangle(typeid(optimizer).name());
}

// LibTorch's key of a parameter in an archive.
std::string archive_key(const at::Tensor& tensor) {
  return std::to_string(reinterpret_cast<size_t>(tensor.unsafeGetTensorImpl()));
}

std::map<std::string, Parameter> parameters_by_key(const Optimizer& optimizer,
                                                   const std::vector<std::string>& names) {
  std::map<std::string, Parameter> result;
  std::set<std::string> taken;
  size_t index = 0;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& tensor : group.params()) {
      HALFSTEP_CHECK_USAGE(index < names.size(), "checkpoint",
                           "each parameter of the optimizer must ",
                           "have a name, but there are only ", names.size(), " names");
      const std::string& name = names[index++];
      const bool fresh = result.emplace(archive_key(tensor), Parameter{name, tensor}).second;
      HALFSTEP_CHECK_USAGE(!fresh || taken.insert(name).second, "checkpoint",
                           "each parameter must have its own name, but '", name, "' names two");
    }
  }
  HALFSTEP_CHECK_USAGE(index == names.size(), "checkpoint", "the optimizer has ", index,
                       " parameters and must have as many names, but got ", names.size());
  return result;
}

ArchiveTree tree_of(const Optimizer& optimizer) {
  torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  ArchiveTree tree = read_archive(archive);
  const auto state = tree.children.find("state");
  HALFSTEP_CHECK_USAGE(state != tree.children.end() && tree.children.contains("param_groups") &&
                           state->second.children.size() == optimizer.state().size(),
                       "checkpoint", class_name(optimizer),
                       " must write its state and groups in save(), but does not; override save() "
                       "and load() with torch::optim::serialize as torch::optim::SGD does");
  return tree;
}

std::string group_key(size_t index) {
  return c10::str("param_groups/", index);
}

// Names and shapes of each group's parameters, to be found equal when loading.
json describe_groups(const Optimizer& optimizer, const std::vector<std::string>& names) {
  json groups = json::array();
  size_t index = 0;
  for (const auto& group : optimizer.param_groups()) {
    json params = json::array();
    for (const auto& tensor : group.params())
      params.push_back({{"name", names[index++]}, {"shape", tensor.sizes().vec()}});
    groups.push_back({{"params", params}});
  }
  return groups;
}

std::map<std::string, json> shapes_by_name(const json& groups) {
  std::map<std::string, json> result;
  for (const json& group : groups) {
    for (const json& param : group.at("params"))
      result[param.at("name").get<std::string>()] = param.at("shape");
  }
  return result;
}

void check_same_parameters(const json& here, const json& there) {
  const auto own = shapes_by_name(here);
  const auto saved = shapes_by_name(there);
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> different;
  for (const auto& [name, shape] : own) {
    const auto found = saved.find(name);
    if (found == saved.end())
      missing.push_back(name);
    else if (found->second != shape)
      different.push_back(
          c10::str(name, " (here ", shape.dump(), ", there ", found->second.dump(), ")"));
  }
  for (const auto& [name, shape] : saved) {
    if (!own.contains(name)) unexpected.push_back(name);
  }
  detail::check_same_names("optimizer", missing, unexpected, different);
  bool same = here.size() == there.size();
  for (size_t i = 0; same && i < here.size(); ++i)
    same = here[i]["params"] == there[i].at("params");
  HALFSTEP_CHECK_ENVIRONMENT(
      same, "checkpoint", "the optimizer must have the parameter groups of ",
      "the checkpoint in the same order, but has ", here.size(), " group(s) and the checkpoint ",
      there.size(), " with the parameters grouped otherwise; use the config it was made with");
}

std::vector<std::string> keys_of(const ArchiveTree& tree) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : tree.values) keys.push_back(key);
  for (const auto& [key, child] : tree.children) keys.push_back(key);
  return keys;
}

// The optimizer's own archive with groups' options, state and the rest taken from the checkpoint.
ArchiveTree merge(const Checkpoint& checkpoint, const json& saved,
                  const std::map<std::string, Parameter>& parameters, const Optimizer& optimizer) {
  const NamedTensors& tensors = checkpoint.tensors;
  ArchiveTree tree = tree_of(optimizer);
  ArchiveTree groups = std::move(tree.children.at("param_groups"));
  for (size_t i = 0; i < optimizer.param_groups().size(); ++i) {
    ArchiveTree& options = groups.children.at(group_key(i)).children["options"];
    ArchiveTree loaded = decode_tree(saved.at("groups").at(i).at("options"),
                                     c10::str("optimizer.options.", i), c10::kCPU, tensors);
    HALFSTEP_CHECK_ENVIRONMENT(
        keys_of(loaded) == keys_of(options), "checkpoint", "the optimizer has the options ",
        detail::first_few(keys_of(options)), ", but the checkpoint has ",
        detail::first_few(keys_of(loaded)), "; use the LibTorch it was made with");
    options = std::move(loaded);
  }
  ArchiveTree merged = decode_tree(saved.at("other"), "optimizer.other", c10::kCPU, tensors);
  merged.children["param_groups"] = std::move(groups);
  ArchiveTree& state = merged.children["state"];
  for (const auto& [key, parameter] : parameters) {
    const auto found = saved.at("state").find(parameter.name);
    if (found == saved.at("state").end()) continue;
    state.children[key] =
        decode_tree(*found, "optimizer." + parameter.name, parameter.tensor.device(), tensors);
  }
  return merged;
}

}  // namespace

std::vector<std::string> parameter_names(const Optimizer& optimizer,
                                         const torch::nn::Module& module) {
  std::map<at::TensorImpl*, std::string> names;
  for (const auto& item : module.named_parameters())
    names.emplace(item.value().unsafeGetTensorImpl(), item.key());
  std::vector<std::string> result;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& tensor : group.params()) {
      const auto found = names.find(tensor.unsafeGetTensorImpl());
      HALFSTEP_CHECK_USAGE(
          found != names.end(), "checkpoint",
          "each parameter of the optimizer must be one of the model's, but number ", result.size(),
          " (", tensor.sizes(),
          ") is not; make the optimizer after the model was moved or changed");
      result.push_back(found->second);
    }
  }
  return result;
}

void save_optimizer(const Optimizer& optimizer, const std::vector<std::string>& param_names,
                    Checkpoint& checkpoint) {
  const auto parameters = parameters_by_key(optimizer, param_names);
  ArchiveTree tree = tree_of(optimizer);
  NamedTensors& tensors = checkpoint.tensors;

  json groups = describe_groups(optimizer, param_names);
  for (size_t i = 0; i < groups.size(); ++i) {
    const ArchiveTree& group = tree.children.at("param_groups").children.at(group_key(i));
    groups[i]["options"] = encode_tree(group.children.at("options"),
                                       c10::str("optimizer.options.", i), c10::kCPU, tensors);
  }
  json state = json::object();
  for (const auto& [key, fields] : tree.children.at("state").children) {
    const auto found = parameters.find(key);
    HALFSTEP_CHECK_USAGE(found != parameters.end(), "checkpoint", class_name(optimizer),
                         " must have state for its own parameters only, but has some for another "
                         "tensor; make the optimizer after the model was moved or changed");
    const auto& [name, tensor] = found->second;
    state[name] = encode_tree(fields, "optimizer." + name, tensor.device(), tensors);
  }
  tree.children.erase("param_groups");
  tree.children.erase("state");
  checkpoint.state["optimizer"] = {
      {"type", class_name(optimizer)},
      {"groups", groups},
      {"state", state},
      {"other", encode_tree(tree, "optimizer.other", c10::kCPU, tensors)}};
}

void load_optimizer(const Checkpoint& checkpoint, const std::vector<std::string>& param_names,
                    Optimizer& optimizer) {
  HALFSTEP_CHECK_ENVIRONMENT(checkpoint.state.contains("optimizer"), "checkpoint",
                             "a checkpoint must have the optimizer's state to go on from, but has "
                             "none; use a checkpoint of halfstep train");
  const json& saved = checkpoint.state["optimizer"];
  const auto parameters = parameters_by_key(optimizer, param_names);
  try {
    const std::string type = saved.at("type").get<std::string>();
    HALFSTEP_CHECK_ENVIRONMENT(type == class_name(optimizer), "checkpoint",
                               "the checkpoint must be of this run's optimizer ",
                               class_name(optimizer), ", but is of ", type,
                               "; use the config it was made with, or another checkpoint");
    check_same_parameters(describe_groups(optimizer, param_names), saved.at("groups"));
    auto archive = make_archive(merge(checkpoint, saved, parameters, optimizer));

    auto previous = std::move(optimizer.state());
    optimizer.state() = {};
    try {
      optimizer.load(archive);
    } catch (...) {
      optimizer.state() = std::move(previous);
      throw;
    }
  } catch (const json::exception& error) {
    halfstep::detail::raise<EnvironmentError>(
        "checkpoint", "the optimizer's state must be as halfstep wrote it, but ", error.what(),
        "; the checkpoint is damaged: use another one");
  } catch (const c10::Error& error) {
    halfstep::detail::raise<EnvironmentError>(
        "checkpoint", class_name(optimizer),
        " must take the checkpoint's state, but LibTorch says: ", error.what_without_backtrace(),
        "; use the halfstep and LibTorch it was made with");
  }
  HALFSTEP_CHECK_USAGE(optimizer.state().size() == saved["state"].size(), "checkpoint",
                       class_name(optimizer), " must take its state in load(), but took ",
                       optimizer.state().size(), " of ", saved["state"].size(),
                       " entries; override load() with torch::optim::serialize as "
                       "torch::optim::SGD does");
}

}  // namespace halfstep::train
