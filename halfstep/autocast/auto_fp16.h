#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/module_object.h"
#include "halfstep/core/module_tensors.h"
#include "halfstep/core/nested.h"

#include <concepts>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep {

/// The flag that auto_fp16 and force_fp32 look at, as a base class beside torch::nn::Module: what
/// `self.fp16_enabled = False` is in MMCV. wrap_fp16_model sets it.
class Fp16Enabled {
 public:
  virtual ~Fp16Enabled();

  /// False: the wrapped methods run as if they were not wrapped.
  bool fp16_enabled = false;

  /// The 16-bit type: float16 or bfloat16. Difference from MMCV: it knows float16 only.
  c10::ScalarType fp16_dtype = c10::ScalarType::Half;

 protected:
  Fp16Enabled() = default;
  Fp16Enabled(const Fp16Enabled&) = default;
  Fp16Enabled& operator=(const Fp16Enabled&) = default;
};

/// Turns mixed precision on in a model of MMCV's style: sets `fp16_enabled` and `fp16_dtype` in
/// every module of the tree that has them, and says how many there are. Weights stay float32: it
/// is autocast that computes in `dtype`. Warns where there are none, since then nothing would be
/// cast (Difference from MMCV, which says nothing). Throws UsageError for a dtype that has not 16
/// bits.
int64_t wrap_fp16_model(torch::nn::Module& model, c10::ScalarType dtype = c10::ScalarType::Half);

/// `tree` with the tensors of dtype `src_type` in `dst_type`; everything else stays as it is. A
/// tree is a tensor or containers with tensors in any nesting (see DtypePolicy). MMCV's function.
template <class Tree>
auto cast_tensor_type(const Tree& tree, c10::ScalarType src_type, c10::ScalarType dst_type) {
  auto cast = detail::CastWhere(
      [src_type](const at::Tensor& tensor) { return tensor.scalar_type() == src_type; }, dst_type);
  return detail::map_tensors(cast, tree);
}

namespace detail {

/// Which arguments of a wrapped function are cast.
class ChosenArguments {
 public:
  void choose(std::size_t position) { positions_.push_back(position); }
  void choose(std::string name) { unresolved_.push_back(std::move(name)); }
  void name_arguments(std::vector<std::string> names) { names_ = std::move(names); }
  void choose_some() { all_ = false; }

  /// Turns names into positions. `arity`: of the function, where it is known. Throws UsageError
  /// for a name or position the function does not have.
  void resolve(const char* where, std::optional<std::size_t> arity);

  bool has(std::size_t position) const;

 private:
  bool all_ = true;
  std::vector<std::size_t> positions_;
  std::vector<std::string> unresolved_;
  std::vector<std::string> names_;
};

template <class Options>
class WrapperOptions {
 public:
  /// The arguments to cast, by position from 0 (the module does not count) or, with
  /// `argument_names`, by name: `apply_to(0, "mask")`. Default: all.
  template <class... Choices>
  Options& apply_to(const Choices&... choices) {
    arguments_.choose_some();
    (choose(choices), ...);
    return static_cast<Options&>(*this);
  }

  /// The names of all arguments in order, for `apply_to`: C++ keeps none.
  Options& argument_names(std::vector<std::string> names) {
    arguments_.name_arguments(std::move(names));
    return static_cast<Options&>(*this);
  }

  const ChosenArguments& arguments() const { return arguments_; }

 private:
  template <class Choice>
  void choose(const Choice& choice) {
    if constexpr (std::integral<Choice>)
      arguments_.choose(static_cast<std::size_t>(choice));
    else
      arguments_.choose(std::string(choice));
  }

  ChosenArguments arguments_;
};

}  // namespace detail

/// What auto_fp16 does.
class AutoFp16Options : public detail::WrapperOptions<AutoFp16Options> {
 public:
  /// Whether 16-bit outputs become float32. Default: false.
  AutoFp16Options& out_fp32(bool value) {
    cast_output_ = value;
    return *this;
  }
  bool out_fp32() const { return cast_output_; }

 private:
  bool cast_output_ = false;
};

/// What force_fp32 does.
class ForceFp32Options : public detail::WrapperOptions<ForceFp32Options> {
 public:
  /// Whether float32 outputs become 16-bit ones. Default: false.
  ForceFp32Options& out_fp16(bool value) {
    cast_output_ = value;
    return *this;
  }
  bool out_fp16() const { return cast_output_; }

 private:
  bool cast_output_ = false;
};

namespace detail {

/// The two directions a wrapper can go.
enum class Precision { low, full };

/// What a wrapper does, apart from the function.
struct WrapperRule {
  Precision precision;
  ChosenArguments arguments;
  bool cast_output;

  const char* where() const { return precision == Precision::low ? "auto_fp16" : "force_fp32"; }
};

/// The module's flag; null, after a warning for each class, where it has none.
const Fp16Enabled* fp16_flag(const Fp16Enabled* flag, const std::type_info& type,
                             const char* where);

/// The region a wrapped function runs in.
AutocastOptions wrapper_region(Precision precision, c10::DeviceType device_type,
                               c10::ScalarType low_dtype);

/// Casts float32 to `low_dtype`, or any 16 bits to float32.
class CastForPrecision {
 public:
  CastForPrecision(Precision precision, c10::ScalarType low_dtype)
      : precision_(precision), low_dtype_(low_dtype) {}
  at::Tensor operator()(const at::Tensor& tensor) const;

 private:
  Precision precision_;
  c10::ScalarType low_dtype_;
};

template <class Module>
concept Fp16Target = requires(Module& module) {
  requires std::derived_from<std::remove_cvref_t<decltype(module_object(module))>,
                             torch::nn::Module> ||
      std::derived_from<std::remove_cvref_t<decltype(module_object(module))>, Fp16Enabled>;
};

/// The number of a method's arguments, where it can be known.
template <class Function>
inline constexpr std::optional<std::size_t> arity_of = std::nullopt;
template <class Result, class Class, class... Arguments>
inline constexpr std::optional<std::size_t> arity_of<Result (Class::*)(Arguments...)> =
    sizeof...(Arguments);
template <class Result, class Class, class... Arguments>
inline constexpr std::optional<std::size_t> arity_of<Result (Class::*)(Arguments...) const> =
    sizeof...(Arguments);

/// A function and what is cast around it. Called with the module, then the function's arguments.
template <class Function>
class Fp16Wrapper {
 public:
  Fp16Wrapper(Function function, WrapperRule rule)
      : function_(std::move(function)), rule_(std::move(rule)) {
    rule_.arguments.resolve(rule_.where(), arity_of<Function>);
  }

  template <Fp16Target Module, class... Arguments>
  auto operator()(Module&& module, Arguments&&... arguments) const {
    auto& object = module_object(module);
    const auto* flag =
        fp16_flag(dynamic_cast<const Fp16Enabled*>(&object), typeid(object), rule_.where());
    if (flag == nullptr || !flag->fp16_enabled)
      return call(object, std::forward<Arguments>(arguments)...);
    return call_cast(object, flag->fp16_dtype, std::index_sequence_for<Arguments...>(),
                     std::forward<Arguments>(arguments)...);
  }

 private:
  template <class Object, class... Arguments>
  auto call(Object& object, Arguments&&... arguments) const {
    if constexpr (std::is_invocable_v<const Function&, Object&, Arguments...>)
      return std::invoke(function_, object, std::forward<Arguments>(arguments)...);
    else
      return std::invoke(function_, std::forward<Arguments>(arguments)...);
  }

  template <class Object, std::size_t... I, class... Arguments>
  auto call_cast(Object& object, c10::ScalarType low_dtype, std::index_sequence<I...>,
                 Arguments&&... arguments) const {
    const CastForPrecision cast(rule_.precision, low_dtype);
    const auto device_type = device_type_of_call(object, arguments...);
    const auto run = [&] {
      const Autocast autocast(wrapper_region(rule_.precision, device_type, low_dtype));
      return call(object, argument<I>(cast, std::forward<Arguments>(arguments))...);
    };
    if constexpr (std::is_void_v<decltype(run())>) {
      run();
    } else {
      auto output = run();
      const auto other = rule_.precision == Precision::low ? Precision::full : Precision::low;
      CastForPrecision back(other, low_dtype);
      return rule_.cast_output ? map_tensors(back, output) : output;
    }
  }

  template <std::size_t position, class Argument>
  decltype(auto) argument(const CastForPrecision& cast, Argument&& given) const {
    const bool chosen = rule_.arguments.has(position);
    auto cast_chosen = [&](const at::Tensor& tensor) { return chosen ? cast(tensor) : tensor; };
    return map_argument(cast_chosen, std::forward<Argument>(given));
  }

  Function function_;
  WrapperRule rule_;
};

}  // namespace detail

/// Wraps a method, or any function, of a module so that it runs in mixed precision wherever the
/// module's `fp16_enabled` is true:
///
///   struct HeadImpl : torch::nn::Module, halfstep::Fp16Enabled {
///     torch::Tensor predict(torch::Tensor x, torch::Tensor scale);
///   };
///   const auto predict = halfstep::auto_fp16(
///       &HeadImpl::predict, AutoFp16Options().argument_names({"x", "scale"}).apply_to("x"));
///   predict(head, x, scale);
///
/// The result is called with the module (itself, a pointer or a holder), then the arguments; a
/// function that takes no module (a lambda with a capture) is not given it. Two mechanisms work
/// together, as in MMCV with PyTorch 1.6 and later. By hand: float32 tensors in the chosen
/// arguments, alone or in containers, are cast to the module's `fp16_dtype` whatever is done with
/// them, and with `out_fp32` 16-bit outputs to float32. By autocast: inside runs a region of that
/// dtype, so each op casts as LibTorch's lists say; weights stay float32.
///
/// Tensors in structs of your own are not seen. Doesn't sync. The wrapper has no state of its own:
/// it may be shared by threads. Throws UsageError where `apply_to` names no argument. A module
/// class without the flag is told once, by a warning, and runs uncast; a class that is neither a
/// torch::nn::Module nor an Fp16Enabled does not compile. Differences from MMCV: the region is for
/// the device type of the first tensor argument (without one, of the module's parameters; without
/// these, for the CPU), not for CUDA only; bfloat16.
template <class Function>
auto auto_fp16(Function function, const AutoFp16Options& options = AutoFp16Options()) {
  return detail::Fp16Wrapper<Function>(
      std::move(function), {detail::Precision::low, options.arguments(), options.out_fp32()});
}

/// The other direction, for what must not run in 16 bits (losses, boxes): 16-bit tensors in the
/// chosen arguments become float32, autocast is off inside, and with `out_fp16` float32 outputs
/// become 16-bit ones. Else as auto_fp16.
///
///   const auto loss = halfstep::force_fp32(&HeadImpl::loss);
template <class Function>
auto force_fp32(Function function, const ForceFp32Options& options = ForceFp32Options()) {
  return detail::Fp16Wrapper<Function>(
      std::move(function), {detail::Precision::full, options.arguments(), options.out_fp16()});
}

}  // namespace halfstep
