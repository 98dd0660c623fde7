#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// The results of a validation by name, in the order in which they were computed.
class Metrics {
 public:
  /// A result with its name.
  using Item = std::pair<std::string, double>;

  Metrics() = default;
  /// In this order. Names must differ.
  Metrics(std::initializer_list<Item> items) : items_(items) {}

  /// The value of a name, or nothing.
  std::optional<double> find(std::string_view name) const {
    for (const auto& [known, value] : items_)
      if (known == name) return value;
    return std::nullopt;
  }
  /// Adds a result. Throws UsageError where the name is taken.
  void add(std::string name, double value);

  bool empty() const { return items_.empty(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

 private:
  std::vector<Item> items_;
};

/// A tensor's sum over all ranks; it lies on the CPU.
using SumOverRanks = std::function<at::Tensor(const at::Tensor&)>;

/// Something measured over the examples of a validation.
///
///   class Accuracy : public Metric {
///     void process(const torch::Tensor& output, const torch::Tensor& target) override {
///       correct_ += (output.argmax(1) == target).sum();  // stays on the device
///       examples_ += target.size(0);
///     }
///     Metrics compute() override { … }
///   };
class Metric {
 public:
  virtual ~Metric() = default;

  /// Takes one batch: what the model gave, and the targets, on the model's device, without
  /// gradients. Should not sync.
  virtual void process(const at::Tensor& output, const at::Tensor& target) = 0;

  /// The results over all batches since the last call; forgets them. Syncs.
  virtual Metrics compute() = 0;

  /// For several ranks, each of which has seen its own batches: puts the sums over all of them in
  /// the place of what this one has counted so far, by calling `sum` (with int64 or float64, of the
  /// same shape on all ranks, also on one that has seen no batch) in the same order on all ranks.
  /// compute() then gives all ranks the results over all examples. Called only where can_reduce()
  /// says true; else, the default, every rank sees all batches.
  virtual void reduce(const SumOverRanks& /*sum*/) {}
  virtual bool can_reduce() const { return false; }
};

}  // namespace halfstep::train
