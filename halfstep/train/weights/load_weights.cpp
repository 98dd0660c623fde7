#include "halfstep/train/weights/load_weights.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/weights/convert.h"
#include "halfstep/train/weights/pth_file.h"

#include <algorithm>
#include <ostream>
#include <utility>

#include <ATen/core/grad_mode.h>

namespace halfstep::train {
namespace {

constexpr const char* kLoadWeightsWhere = "load_weights";
constexpr std::string_view kModel = "model.";
constexpr std::string_view kParallel = "module.";

NamedTensors tensors_of(const torch::nn::Module& module) {
  NamedTensors result;
  for (const auto& item : module.named_parameters()) result[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) result[item.key()] = item.value();
  return result;
}

template <class Names>
bool all_begin_with(const Names& names, std::string_view prefix) {
  return std::all_of(names.begin(), names.end(),
                     [&](const auto& item) { return item.first.starts_with(prefix); });
}

NamedTensors without_prefix(const NamedTensors& weights, std::string_view prefix) {
  NamedTensors result;
  for (const auto& [name, tensor] : weights)
    if (name.starts_with(prefix)) result[name.substr(prefix.size())] = tensor;
  return result;
}

NamedTensors chosen(const NamedTensors& weights, const NamedTensors& own,
                    const std::string& prefix) {
  if (!prefix.empty()) return without_prefix(weights, prefix);
  const bool parallel = !weights.empty() && all_begin_with(weights, kParallel) && !own.empty() &&
                        !own.begin()->first.starts_with(kParallel);
  return parallel ? without_prefix(weights, kParallel) : weights;
}

std::string describe(const at::Tensor& tensor) {
  return c10::str(dtype_name(tensor.scalar_type()), " ", tensor.sizes());
}

bool fits(const at::Tensor& from, const at::Tensor& to) {
  if (from.sizes() != to.sizes()) return false;
  return from.scalar_type() == to.scalar_type() || (to.is_floating_point() && !from.is_complex());
}

// What is copied into a tensor of the module; adds to the report.
at::Tensor prepare(const std::string& name, const at::Tensor& from, const at::Tensor& to,
                   WeightsReport& report) {
  ++report.loaded;
  if (from.scalar_type() == to.scalar_type()) return from;
  auto [result, overflowed, vanished] = convert(from, to.scalar_type());
  HALFSTEP_CHECK_USAGE(overflowed == 0, kLoadWeightsWhere, report.file, ": values of '", name,
                       "' must be within the range of ", dtype_name(to.scalar_type()),
                       ", the module's dtype, but ", overflowed, " of ", from.numel(),
                       " are not; load them into a float32 module");
  report.converted.push_back(c10::str(name, " (", dtype_name(from.scalar_type()), " to ",
                                      dtype_name(to.scalar_type()), ")"));
  return result;
}

std::string list_of(const char* what, const std::vector<std::string>& names) {
  constexpr size_t most = 20;
  if (names.empty()) return "";
  std::string text = c10::str(what, " (", names.size(), "): ");
  for (size_t i = 0; i < std::min(most, names.size()); ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > most) text += c10::str(" and ", names.size() - most, " more");
  return text + "\n";
}

std::string lists_of_misfits(const WeightsReport& report) {
  return list_of("missing", report.missing) + list_of("of another shape", report.reshaped) +
         list_of("unexpected", report.unexpected);
}

}  // namespace

std::string WeightsReport::text() const {
  return c10::str("loaded ", loaded, " of ", wanted, " tensors from ", file, "\n") +
         list_of("converted", converted) + lists_of_misfits(*this);
}

std::ostream& operator<<(std::ostream& out, const WeightsReport& report) {
  return out << report.text();
}

NamedTensors read_weights(const std::filesystem::path& file, const std::string& key) {
  if (is_pth(file)) {
    auto content = load_pth(file, key);
    for (const auto& name : content.others) content.tensors[name];
    return std::move(content.tensors);
  }
  HALFSTEP_CHECK_USAGE(key.empty(), kLoadWeightsWhere, file.string(),
                       " must be a .pth file for the key '", key,
                       "' to be looked up in it, but is none; leave the key out");
  auto content = load_safetensors(file);
  return Checkpoint::is_one(content.metadata) ? without_prefix(content.tensors, kModel)
                                              : std::move(content.tensors);
}

bool is_checkpoint(const std::filesystem::path& file) {
  return !is_pth(file) && Checkpoint::is_one(load_safetensors_metadata(file));
}

NamedTensors model_tensors(const Checkpoint& checkpoint) {
  return without_prefix(checkpoint.tensors, kModel);
}

Checkpoint read_as_checkpoint(const std::filesystem::path& file) {
  if (is_checkpoint(file)) return Checkpoint::load(file);
  Checkpoint result;
  for (auto& [name, tensor] : read_weights(file))
    if (tensor.defined()) result.tensors[c10::str(kModel, name)] = tensor;
  return result;
}

WeightsReport load_weights(torch::nn::Module& module, const std::filesystem::path& file,
                           const LoadWeightsOptions& options) {
  return load_weights(module, read_weights(file, options.key), file.string(), options);
}

WeightsReport load_weights(torch::nn::Module& module, const NamedTensors& weights,
                           const std::string& name, const LoadWeightsOptions& options) {
  auto own = tensors_of(module);
  const auto given = chosen(weights, own, options.prefix);
  WeightsReport report;
  report.file = name;
  report.wanted = own.size();
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // to, from
  for (const auto& [key, to] : own) {
    const auto found = given.find(key);
    if (found == given.end() || !found->second.defined()) {
      report.missing.push_back(key);
    } else if (const auto& from = found->second; !fits(from, to)) {
      report.reshaped.push_back(
          c10::str(key, " (here ", describe(to), ", there ", describe(from), ")"));
    } else {
      copies.emplace_back(to, prepare(key, from, to, report));
    }
  }
  for (const auto& [key, tensor] : given)
    if (!tensor.defined())
      report.unexpected.push_back(key + " (no tensor)");
    else if (!own.contains(key))
      report.unexpected.push_back(key);
  if (options.strict && !report.is_complete()) {
    auto text = lists_of_misfits(report);
    text.pop_back();
    std::replace(text.begin(), text.end(), '\n', ';');
    halfstep::detail::raise<EnvironmentError>(
        kLoadWeightsWhere, name, " must have exactly the module's tensors, but got ", text,
        "; load a file of this model (in C++ strict = false takes what fits)");
  }
  const at::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
  return report;
}

}  // namespace halfstep::train
