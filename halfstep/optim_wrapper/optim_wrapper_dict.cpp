#include "halfstep/optim_wrapper/optim_wrapper_dict.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <algorithm>

namespace halfstep {

namespace {

constexpr const char* kOptimWrapperDictWhere = "OptimWrapperDict";

std::string list_of(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

}  // namespace

OptimWrapperDict::OptimWrapperDict(std::initializer_list<NamedWrapper> wrappers)
    : OptimWrapperDict(std::vector<NamedWrapper>(wrappers)) {}

OptimWrapperDict::OptimWrapperDict(const std::vector<NamedWrapper>& wrappers) {
  HALFSTEP_CHECK_USAGE(!wrappers.empty(), kOptimWrapperDictWhere,
                       "there must be wrappers, but got none; name at least one");
  for (const auto& [name, wrapper] : wrappers) {
    HALFSTEP_CHECK_USAGE(wrapper != nullptr, kOptimWrapperDictWhere,
                         "each must be an OptimWrapper, but '", name, "' is null; make it first");
    HALFSTEP_CHECK_USAGE(!name.empty() && name.find('.') == name.npos && !wrappers_.contains(name),
                         kOptimWrapperDictWhere,
                         "each wrapper must have a name of its own without a dot, but got '", name,
                         "'; choose another");
    wrappers_.insert(name, wrapper);
  }
}

OptimWrapperDict::~OptimWrapperDict() = default;

namespace {
[[noreturn]] void refuse(const OptimWrapperDict& dict, const char* call) {
  halfstep::detail::raise<UsageError>(
      c10::str(kOptimWrapperDictWhere, "::", call).c_str(), call,
      " should be called of one wrapper, but got a call for all of ", list_of(dict.keys()),
      "; take one by its name, as in wrappers[\"", dict.keys().front(), "\"].", call, "(…)");
}
}  // namespace

std::optional<StepResult> OptimWrapperDict::update_params(const at::Tensor& /*loss*/) {
  refuse(*this, "update_params");
}

void OptimWrapperDict::backward(const at::Tensor& /*loss*/) {
  refuse(*this, "backward");
}

StepResult OptimWrapperDict::step() {
  refuse(*this, "step");
}

OptimContext OptimWrapperDict::optim_context(torch::nn::Module& /*model*/) {
  refuse(*this, "optim_context");
}

void OptimWrapperDict::zero_grad() {
  for (const auto& item : wrappers_) item.value()->zero_grad();
}

void OptimWrapperDict::initialize_count_status(const torch::nn::Module& /*model*/,
                                               int64_t /*init_counts*/, int64_t /*max_counts*/) {}

GroupValues OptimWrapperDict::get_lr() const {
  GroupValues values;
  for (const auto& item : wrappers_)
    for (const auto& rate : item.value()->get_lr())
      values.insert(item.key() + "." + rate.key(), rate.value());
  return values;
}

GroupValues OptimWrapperDict::get_momentum() const {
  GroupValues values;
  for (const auto& item : wrappers_)
    for (const auto& momentum : item.value()->get_momentum())
      values.insert(item.key() + "." + momentum.key(), momentum.value());
  return values;
}

std::map<std::string, std::vector<torch::optim::OptimizerParamGroup>*>
OptimWrapperDict::param_groups() {
  std::map<std::string, std::vector<torch::optim::OptimizerParamGroup>*> groups;
  for (const auto& item : wrappers_) groups[item.key()] = &item.value()->param_groups();
  return groups;
}

OptimWrapper& OptimWrapperDict::operator[](const std::string& name) {
  if (!contains(name)) {
    const auto suggestion = suggest(name, keys());
    halfstep::detail::raise<UsageError>(
        kOptimWrapperDictWhere, "a name must be one of ", list_of(keys()), ", but got '", name,
        "'; ",
        suggestion.empty() ? "make a wrapper of that name, too (in a config a key of "
                             "optim_wrapper)"
                           : suggestion.c_str());
  }
  return *wrappers_[name];
}

std::vector<OptimWrapperDict::NamedWrapper> OptimWrapperDict::items() const {
  std::vector<NamedWrapper> items;
  for (const auto& item : wrappers_) items.emplace_back(item.key(), item.value());
  return items;
}

std::vector<std::pair<std::string, OptimWrapper*>> OptimWrapperDict::named_wrappers() {
  std::vector<std::pair<std::string, OptimWrapper*>> wrappers;
  for (const auto& item : wrappers_) wrappers.emplace_back(item.key(), item.value().get());
  return wrappers;
}

void OptimWrapperDict::save(torch::serialize::OutputArchive& archive) const {
  for (const auto& item : wrappers_) {
    torch::serialize::OutputArchive one(archive.compilation_unit());
    item.value()->save(one);
    archive.write(item.key(), one);
  }
}

void OptimWrapperDict::load(torch::serialize::InputArchive& archive) {
  auto saved = archive.keys();
  auto ours = keys();
  std::sort(saved.begin(), saved.end());
  std::sort(ours.begin(), ours.end());
  HALFSTEP_CHECK_USAGE(saved == ours, "OptimWrapperDict::load",
                       "the state must be of the same wrappers, ", list_of(keys()), ", but is of ",
                       list_of(saved), "; load what was saved with these names");
  for (auto& item : wrappers_) {
    torch::serialize::InputArchive one;
    archive.read(item.key(), one);
    item.value()->load(one);
  }
}

void OptimWrapperDict::print(std::ostream& stream) const {
  for (const auto& item : wrappers_) stream << "name: " << item.key() << '\n' << *item.value();
}

}  // namespace halfstep
