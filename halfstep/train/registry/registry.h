#pragma once
#include "halfstep/optim/schedule.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/data/dataset.h"
#include "halfstep/train/models/model.h"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <torch/optim/optimizer.h>

namespace halfstep::train {

class Hook;
class InputReader;
class Metric;

namespace detail {
[[noreturn]] void unknown_type(Config& config, const std::string& kind,
                               const std::vector<std::string>& known);
[[noreturn]] void duplicate_type(const std::string& kind, const std::string& name);
}  // namespace detail

/// Names that a config's `type:` may hold, with what builds them. One per kind of part, see
/// models() … metrics() below.
///
/// A user's program registers its own classes before it calls halfstep::train::main:
///
///   halfstep::train::models().add("MyNet", [](halfstep::train::Config& config) {
///     return std::make_shared<MyNet>(config.get<int64_t>("width", 64));
///   });
template <class Product, class... Args>
class Registry {
 public:
  /// Builds a part from its mapping, `type` included; reading a key is what allows it.
  using Factory = std::function<Product(Config&, Args...)>;

  /// `kind` names the part in messages: "model".
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  /// Adds a name; throws UsageError where it is taken. Returns true, so that a static bool can hold
  /// the call.
  bool add(const std::string& name, Factory factory) {
    if (!factories_.emplace(name, std::move(factory)).second) detail::duplicate_type(kind_, name);
    return true;
  }

  /// Builds what `type:` names from the rest of the mapping. Throws UsageError that lists the names
  /// for an unknown one.
  Product build(Config& config, Args... args) const {
    const auto found = factories_.find(config.get<std::string>("type"));
    if (found == factories_.end()) detail::unknown_type(config, kind_, names());
    return found->second(config, std::forward<Args>(args)...);
  }

  /// What `add` was given under a name; null for an unknown one.
  const Factory* find(const std::string& name) const {
    const auto found = factories_.find(name);
    return found == factories_.end() ? nullptr : &found->second;
  }

  /// What `type:` may be, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, factory] : factories_) result.push_back(name);
    return result;
  }

 private:
  std::string kind_;
  std::map<std::string, Factory> factories_;
};

/// A registry for each kind of part, by what its factories make.
using ModelRegistry = Registry<std::shared_ptr<BaseModel>>;
using DatasetRegistry = Registry<std::shared_ptr<Dataset>>;
using LossRegistry = Registry<Loss>;
using OptimizerRegistry =
    Registry<std::unique_ptr<torch::optim::Optimizer>, std::vector<torch::Tensor>>;
using SchedulerRegistry = Registry<optim::Schedule>;
using HookRegistry = Registry<std::unique_ptr<Hook>>;
using MetricRegistry = Registry<std::unique_ptr<Metric>>;
using InputReaderRegistry = Registry<std::unique_ptr<InputReader>>;

/// The registries, with the built-in classes already in them. Fill them before threads start.
ModelRegistry& models();
DatasetRegistry& datasets();
LossRegistry& losses();
OptimizerRegistry& optimizers();
SchedulerRegistry& schedulers();
HookRegistry& hooks();
MetricRegistry& metrics();

/// What `halfstep predict` reads a file with, by the type of the data set whose examples it makes
/// of it; the factory takes the data set's own mapping.
InputReaderRegistry& input_readers();

}  // namespace halfstep::train
