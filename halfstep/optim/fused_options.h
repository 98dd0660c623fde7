#pragma once
#include "halfstep/core/error.h"
#include "halfstep/optim/master_weights.h"

#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <c10/core/ScalarType.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>

namespace halfstep::optim {

/// Which code makes the step.
enum class Kernel {
  /// Our own CPU kernels for float32, bfloat16 and float16 parameters on the CPU: faster, and
  /// unscaling and clipping cost no pass of their own. ATen's fused kernels for the rest.
  automatic,
  /// ATen's fused kernels throughout: results to the bit as Python's fused=True.
  aten,
};

/// What holds for an optimizer as a whole. Not part of its saved state.
struct StepSettings {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  Kernel kernel = Kernel::automatic;
  double clip_norm = kNone, clip_value = kNone;
  std::optional<c10::ScalarType> shadow_weights;
  MasterWeights master_weights = MasterWeights::none;
  bool capturable = false;
  bool clips_norm() const { return clip_norm < kNone; }
  bool clips_value() const { return clip_value < kNone; }
  bool operator==(const StepSettings&) const = default;
};

/// Base of the options of the fused optimizers. A parameter group may set some fields only; it
/// takes the others from the optimizer's defaults, as in Python.
///
///   groups.emplace_back(biases, std::make_unique<AdamOptions>(AdamOptions().weight_decay(0)));
///   Adam adam(groups, AdamOptions(1e-3).weight_decay(0.01));  // biases: lr 1e-3, weight_decay 0
///
/// Difference from LibTorch's options, which guess that a field was set from its value: here a
/// field that was set to the class's own default counts as set.
class FusedOptions : public torch::optim::OptimizerOptions {
 public:
  /// Fields that were not set take the value of `defaults`, which must be of the same class.
  virtual void inherit(const FusedOptions& defaults) = 0;

  /// Throws UsageError for a value out of range; `where` opens the message.
  virtual void validate(const char* where) const = 0;

  /// Those of the options that hold for the optimizer as a whole.
  virtual StepSettings settings() const = 0;

  /// All fields but the learning rate, as numbers: equal ones make the same steps at one rate.
  virtual std::vector<double> numbers_but_lr() const = 0;
};

namespace detail {

/// A value that remembers whether it was set.
template <class T>
class OptionField {
 public:
  OptionField(T initial) : value_(initial), initial_(std::move(initial)) {}
  void set(T value) {
    value_ = std::move(value);
    set_ = true;
  }
  const T& get() const { return value_; }
  T& get() { return value_; }
  // The second half: a value that was changed through a reference.
  bool is_set() const { return set_ || !(value_ == initial_); }

 private:
  T value_;
  T initial_;
  bool set_ = false;
};

/// One saved field of options: its name in archives and the member that holds it.
template <class Options, class T>
struct NamedField {
  const char* name;
  OptionField<T> Options::*member;
};
// clang before 17 deduces none for aggregates.
template <class Options, class T>
NamedField(const char*, OptionField<T> Options::*) -> NamedField<Options, T>;

/// What FusedOptions promises, from `Derived::fields()`, a tuple of NamedField.
template <class Derived>
class OptionsOf : public FusedOptions {
 public:
  std::unique_ptr<OptimizerOptions> clone() const override {
    return std::make_unique<Derived>(self());
  }

  void inherit(const FusedOptions& defaults) override {
    const auto& other = static_cast<const Derived&>(defaults);
    for_each_field([&](const char*, auto member) {
      if (!(self().*member).is_set()) self().*member = other.*member;
    });
  }

  /// Writes each field under its name, as LibTorch's options do.
  void serialize(torch::serialize::OutputArchive& archive) const override {
    for_each_field([&](const char* name, auto member) {
      archive.write(name, c10::IValue((self().*member).get()));
    });
  }

  /// Fields that the archive lacks keep their value: those of LibTorch's own optimizer of the same
  /// name can be read.
  void serialize(torch::serialize::InputArchive& archive) override {
    for_each_field([&](const char* name, auto member) {
      c10::IValue value;
      if (!archive.try_read(name, value)) return;
      auto& field = self().*member;
      field.set(value.to<std::remove_cvref_t<decltype(field.get())>>());
    });
  }

  double get_lr() const override { return self().lr(); }
  void set_lr(const double lr) override { self().lr(lr); }

  // Of the defaults only: a group that sets another value is an error.

  /// Which code makes the step. Default: Kernel::automatic.
  Derived& kernel(Kernel value) {
    settings_.kernel = value;
    return self();
  }
  /// Scales the gradients of all groups together so that their norm is at most this, after they are
  /// unscaled and before the update, as clip_grad_norm_ would. Default: infinity, none. At least 0.
  /// Not together with clip_value.
  Derived& clip_norm(double value) {
    settings_.clip_norm = value;
    return self();
  }
  /// Limits each element of the unscaled gradients to [-value, value]. Default: infinity, none. At
  /// least 0.
  Derived& clip_value(double value) {
    settings_.clip_value = value;
    return self();
  }
  /// Keeps copies of the float32 parameters in this 16-bit dtype, that of the region of Autocast:
  /// autocast takes them and casts no weight (see ShadowWeights). Each step writes them, our CPU
  /// kernels in the same pass. 2 bytes a parameter. Default: none.
  Derived& shadow_weights(c10::ScalarType dtype) {
    settings_.shadow_weights = dtype;
    return self();
  }
  /// Keeps float32 masters of the bfloat16 and float16 parameters; see MasterWeights. Default:
  /// none.
  Derived& master_weights(MasterWeights value) {
    settings_.master_weights = value;
    return self();
  }
  /// Lets a CUDA graph hold the step: the learning rate, as float32, lies in a tensor beside the
  /// parameters, as it does in Python with capturable=True and a tensor as lr. A Graph of
  /// halfstep's then launches the whole step as one. For ATen's kernels only, so for CUDA; our own
  /// take the rate as it is. Default: false.
  Derived& capturable(bool value = true) {
    settings_.capturable = value;
    return self();
  }
  StepSettings settings() const override { return settings_; }

  std::vector<double> numbers_but_lr() const override {
    std::vector<double> numbers;
    for_each_field([&](const char* name, auto member) {
      if (std::string_view(name) != "lr") append(numbers, (self().*member).get());
    });
    return numbers;
  }

  friend bool operator==(const Derived& left, const Derived& right) {
    bool equal = true;
    for_each_field([&](const char*, auto member) {
      equal = equal && (left.*member).get() == (right.*member).get();
    });
    return equal;
  }

 private:
  template <class Visitor>
  static void for_each_field(const Visitor& visit) {
    std::apply([&](auto... field) { (visit(field.name, field.member), ...); }, Derived::fields());
  }
  static void append(std::vector<double>& numbers, double value) { numbers.push_back(value); }
  static void append(std::vector<double>& numbers, const std::tuple<double, double>& values) {
    numbers.insert(numbers.end(), {std::get<0>(values), std::get<1>(values)});
  }
  Derived& self() { return static_cast<Derived&>(*this); }
  const Derived& self() const { return static_cast<const Derived&>(*this); }

  StepSettings settings_;
};

void check_at_least_zero(double value, const char* field, const char* where);

}  // namespace detail

}  // namespace halfstep::optim

/// Declares a field of the options `Owner` with the accessors of LibTorch's TORCH_ARG:
/// `options.name(value)` sets and returns the options, `options.name()` reads. The comment above it
/// is the field's.
#define HALFSTEP_OPTIM_FIELD(Owner, Type, name, initial) \
 public:                                                 \
  Owner& name(Type value) {                              \
    name##_.set(std::move(value));                       \
    return static_cast<Owner&>(*this);                   \
  }                                                      \
  const Type& name() const noexcept {                    \
    return name##_.get();                                \
  }                                                      \
  Type& name() noexcept {                                \
    return name##_.get();                                \
  }                                                      \
                                                         \
 private:                                                \
  ::halfstep::optim::detail::OptionField<Type> name##_ { \
    initial                                              \
  }
