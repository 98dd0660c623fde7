#include "halfstep/train/files/module_state.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <ATen/core/grad_mode.h>

namespace halfstep::train {
namespace {

constexpr std::string_view kModelPrefix = "model.";

NamedTensors named_tensors(const torch::nn::Module& module) {
  NamedTensors result;
  for (const auto& item : module.named_parameters())
    result[c10::str(kModelPrefix, item.key())] = item.value();
  for (const auto& item : module.named_buffers())
    result[c10::str(kModelPrefix, item.key())] = item.value();
  return result;
}

std::string describe(const at::Tensor& tensor) {
  return c10::str(dtype_name(tensor.scalar_type()), " ", tensor.sizes());
}

}  // namespace

void save_module(const torch::nn::Module& module, Checkpoint& checkpoint) {
  for (auto& [name, tensor] : named_tensors(module)) checkpoint.tensors[name] = tensor.detach();
}

void load_module(const Checkpoint& checkpoint, torch::nn::Module& module) {
  NamedTensors own = named_tensors(module);
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> different;
  for (const auto& [name, tensor] : own) {
    const auto saved = checkpoint.tensors.find(name);
    if (saved == checkpoint.tensors.end()) {
      missing.push_back(name);
    } else if (saved->second.sizes() != tensor.sizes() ||
               saved->second.scalar_type() != tensor.scalar_type()) {
      different.push_back(
          c10::str(name, " (here ", describe(tensor), ", there ", describe(saved->second), ")"));
    }
  }
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (name.starts_with(kModelPrefix) && !own.contains(name)) unexpected.push_back(name);
  }
  detail::check_same_names("model", missing, unexpected, different);

  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : own) tensor.copy_(checkpoint.tensors.at(name));
}

namespace detail {

std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t few = 3;
  std::string text;
  for (size_t i = 0; i < std::min(few, names.size()); ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > few) text += c10::str(" and ", names.size() - few, " more");
  return text;
}

void check_same_names(const char* what, const std::vector<std::string>& missing,
                      const std::vector<std::string>& unexpected,
                      const std::vector<std::string>& different) {
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  std::string text;
  if (!missing.empty()) text += "; it lacks " + first_few(missing);
  if (!unexpected.empty()) text += "; it has besides " + first_few(unexpected);
  if (!different.empty()) text += "; other shapes or dtypes: " + first_few(different);
  halfstep::detail::raise<EnvironmentError>(
      "checkpoint", "the checkpoint must be of this ", what, ", but is of another model", text,
      "; use the config it was made with, or another checkpoint");
}

}  // namespace detail
}  // namespace halfstep::train
