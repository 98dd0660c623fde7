#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::train {

/// What a run's parts tell each other: numbers by name ("train/loss", "val/accuracy"), each with
/// its last values. The logger prints those that begin with "train/". A value may be a tensor on
/// any device; it is read when somebody asks for it, so that telling never waits for the device.
///
///   trainer.message_hub().update_scalar("train/kl", kl.detach());
///
/// Difference from MMEngine's MessageHub: one for each run, not a global by name; it keeps the last
/// `kept` values, and is not saved: its numbers are for people. Not thread-safe.
class MessageHub {
 public:
  /// Values kept of each name.
  static constexpr size_t kept = 100;

  /// Adds a value: the number, or a tensor of one element, which is kept, not copied. Throws
  /// UsageError for a tensor of more or none.
  void update_scalar(const std::string& name, double value);
  void update_scalar(const std::string& name, const at::Tensor& value);

  /// Whether somebody told a value of this name.
  bool has(const std::string& name) const { return scalars_.contains(name); }

  /// The newest value, and the mean of the last `window` (of all kept where there are fewer). Sync
  /// with the device of tensors. Throw UsageError for a name nobody told.
  double current(const std::string& name) const;
  double mean(const std::string& name, int64_t window) const;

  /// The last `window` values, the newest last (all kept where there are fewer). Syncs as mean().
  std::vector<double> last(const std::string& name, int64_t window) const;

  /// The names that begin with `prefix`, in the order in which they were first told.
  std::vector<std::string> names(std::string_view prefix = "") const;

 private:
  using Value = std::variant<double, at::Tensor>;
  std::deque<Value>& values(const std::string& name);
  const std::deque<Value>& known(const std::string& name) const;

  std::map<std::string, std::deque<Value>> scalars_;
  std::vector<std::string> order_;
};

}  // namespace halfstep::train
