#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/nested.h"

#include <memory>
#include <optional>
#include <utility>

#include <torch/csrc/autograd/custom_function.h>

namespace halfstep {

namespace detail {

class ResumedPolicyRegion;

/// Notes for backward which region forward runs in; `disable`: that it runs in none. Nothing for a
/// device type without autocast.
void note_region(torch::autograd::AutogradContext* context, c10::DeviceType device_type,
                 bool disable);

/// The region of forward again, for backward.
class NotedRegion {
 public:
  explicit NotedRegion(const torch::autograd::AutogradContext* context);
  ~NotedRegion();
  NotedRegion(const NotedRegion&) = delete;
  NotedRegion& operator=(const NotedRegion&) = delete;

 private:
  std::unique_ptr<ResumedPolicyRegion> policy_;
  std::optional<Autocast> autocast_;
};

bool autocast_is_enabled(c10::DeviceType device_type);

/// What custom_fwd casts: floating-point tensors of the device type, but not float64.
inline auto cast_eligible(c10::DeviceType device_type, c10::ScalarType dtype) {
  return CastWhere(
      [device_type](const at::Tensor& tensor) {
        return tensor.is_floating_point() && tensor.scalar_type() != c10::ScalarType::Double &&
               tensor.device().type() == device_type;
      },
      dtype);
}

}  // namespace detail

/// Base of a custom autograd function that minds autocast: derive from it in place of
/// torch::autograd::Function, and call `apply` as ever. It is what Python's custom_fwd and
/// custom_bwd do around forward and backward:
///
///   struct Product : halfstep::CustomFunction<Product> {
///     static constexpr auto cast_inputs = torch::kFloat;  // may be left out
///     static torch::Tensor forward(torch::autograd::AutogradContext* context,
///                                  const torch::Tensor& a, const torch::Tensor& b) {
///       context->save_for_backward({a, b});
///       return a.mm(b);
///     }
///     static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
///                                                    torch::autograd::variable_list grads) {…}
///   };
///   auto product = Product::apply(a, b);
///
/// Without `cast_inputs`, forward's ops follow the region it is called in, and backward runs in
/// the same region (enabled or not, its dtype, its op policy or LibTorch's list), wherever
/// backward() is called. With `cast_inputs`, in an enabled region the floating-point tensors among
/// the arguments, alone or in containers (see DtypePolicy), are cast to that dtype, except float64
/// and other devices', and forward and backward run with autocast disabled; outside of one nothing
/// changes.
///
/// The region is that of `static constexpr auto device_type`, where the class has it, else of the
/// first tensor argument's device type, else the CPU's (Difference from Python, where it is always
/// named). On a device type without autocast, as meta, it is a plain function. Doesn't sync.
/// Gradients reach inputs in the inputs' dtypes, as with any function. Keys of the context's
/// saved_data that begin with "halfstep::" are taken.
template <class Derived>
struct CustomFunction : torch::autograd::Function<CustomFunction<Derived>> {
  /// What LibTorch calls.
  template <class... Arguments>
  static auto forward(torch::autograd::AutogradContext* context, Arguments&&... arguments) {
    const auto device_type = [&] {
      if constexpr (requires { Derived::device_type; })
        return Derived::device_type;
      else
        return detail::first_device_type(arguments...).value_or(c10::DeviceType::CPU);
    }();
    if constexpr (requires { Derived::cast_inputs; }) {
      detail::note_region(context, device_type, /*disable=*/true);
      if (detail::autocast_is_enabled(device_type)) {
        const Autocast disabled(AutocastOptions(device_type).enabled(false));
        auto cast = detail::cast_eligible(device_type, Derived::cast_inputs);
        return Derived::forward(context, detail::map_argument(cast, arguments)...);
      }
    } else {
      detail::note_region(context, device_type, /*disable=*/false);
    }
    return Derived::forward(context, std::forward<Arguments>(arguments)...);
  }

  /// What LibTorch calls.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const detail::NotedRegion region(context);
    return Derived::backward(context, std::move(gradients));
  }
};

}  // namespace halfstep
