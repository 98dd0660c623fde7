#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

namespace halfstep {

/// A parameter whose gradient had an inf or NaN.
struct NonFiniteGradient {
  std::string parameter;       ///< its name, or "optimizer 0, group 1, parameter 2"
  int64_t since_update;        ///< the first update it was seen in
  bool parameter_too = false;  ///< the parameter itself has one as well
};

/// Why a loss scale does not get out of its overflows; see GradScaler::diagnosis.
struct OverflowDiagnosis {
  int64_t update = 0;               ///< the update it describes
  int64_t overflowing_since = 0;    ///< every update since this one overflowed
  int64_t in_a_row_at_minimum = 0;  ///< overflows that could not lower the scale
  double scale = 0;
  int64_t gradients = 0;  ///< how many there were
  /// Those that are not finite now: the ones that began first, first, then in the order of the
  /// parameters. Empty where none was left to look at, or only another rank has some.
  std::vector<NonFiniteGradient> non_finite;

  /// What happened and where, in one sentence without advice.
  std::string what() const;
  /// What the user can do about it.
  std::string advice() const;
};

namespace detail {

/// Names for parameters, in the order of `named_parameters()`.
using ParameterNames = std::unordered_map<const c10::TensorImpl*, std::string>;

/// Looks at single gradients while overflows go on at the minimum scale.
class OverflowSearch {
 public:
  void name_parameters(ParameterNames names) { names_ = std::move(names); }

  /// Looks at every gradient of `optimizers`, in the order of their numbers, and remembers since
  /// when each is not finite. Syncs once for each optimizer and device.
  void look(const std::map<int64_t, torch::optim::Optimizer*>& optimizers, int64_t update);

  /// Forgets what was seen: an update came without overflow.
  void clear();

  /// Of the last look.
  int64_t gradients() const { return gradients_; }
  std::vector<NonFiniteGradient> non_finite() const;

 private:
  using Place = std::vector<int64_t>;  // optimizer, group, parameter in it
  using Seen = std::map<Place, NonFiniteGradient>;

  void look(int64_t number, torch::optim::Optimizer& optimizer, int64_t update, Seen& now);

  ParameterNames names_;
  int64_t gradients_ = 0;
  Seen seen_;
};

}  // namespace detail

}  // namespace halfstep
