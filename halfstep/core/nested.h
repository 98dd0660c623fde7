#pragma once
#include "halfstep/core/error.h"

#include <concepts>
#include <map>
#include <optional>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <torch/ordered_dict.h>

/// Tensors in containers that nest: vector, array, pair, tuple, optional, map, unordered_map and
/// torch::OrderedDict, and at::TensorList by itself (inside a container it does not compile). Any
/// other type is a leaf.
namespace halfstep::detail {

/// What a container with one type of elements holds; void for other types.
template <class T>
struct Element {
  using Type = void;
};
template <class T, class Allocator>
struct Element<std::vector<T, Allocator>> {
  using Type = T;
};
template <class T>
struct Element<std::optional<T>> {
  using Type = T;
};
template <class Key, class T, class... More>
struct Element<std::map<Key, T, More...>> {
  using Type = T;
};
template <class Key, class T, class... More>
struct Element<std::unordered_map<Key, T, More...>> {
  using Type = T;
};
template <class Key, class T>
struct Element<torch::OrderedDict<Key, T>> {
  using Type = T;
};

/// std::array, std::pair and std::tuple.
template <class T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};

/// Whether Is<leaf> holds for any leaf of T or, with `every`, for all.
template <template <class> class Is, class T, bool every>
constexpr bool leaves_are() {
  using Inner = typename Element<T>::Type;
  if constexpr (!std::is_void_v<Inner>) {
    return leaves_are<Is, Inner, every>();
  } else if constexpr (TupleLike<T>) {
    return []<std::size_t... I>(std::index_sequence<I...>) {
      if constexpr (every)
        return (leaves_are<Is, std::tuple_element_t<I, T>, every>() && ...);
      else
        return (leaves_are<Is, std::tuple_element_t<I, T>, every>() || ...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>{});
  } else {
    return Is<T>::value;
  }
}

template <class T>
using IsTensor = std::is_same<T, at::Tensor>;
template <class T>
using IsTensorList = std::is_same<T, at::TensorList>;

/// A tensor, or containers of nothing but tensors.
template <class T>
concept TensorNest = leaves_are<IsTensor, T, true>();

/// A tensor, or containers with tensors among their leaves.
template <class T>
concept HoldsTensors = leaves_are<IsTensor, T, false>() || leaves_are<IsTensorList, T, false>();

/// No TensorList in a container: it owns no tensors, so a mapped one would point at nothing. Use a
/// vector there.
template <class T>
concept OwnsItsTensors = IsTensorList<T>::value || !leaves_are<IsTensorList, T, false>();

inline void check_same_structure(bool same) {
  HALFSTEP_CHECK_USAGE(same, "nested containers",
                       "both must have the same structure, but they differ in a size, a key or an "
                       "empty optional; pass two that were made alike");
}

/// `first` with every tensor replaced by `change(tensor)`, from the first to the last; with
/// `others` of the same type and structure, by `change(tensor, tensors of the others…)`. Other
/// leaves are `first`'s. A TensorList becomes a vector.
template <class Change, OwnsItsTensors Nest, std::same_as<Nest>... Others>
auto map_tensors(Change& change, const Nest& first, const Others&... others);

template <class Change, class T, class... Others>
std::vector<T> map_container(Change& change, const std::vector<T>& first, const Others&... others) {
  check_same_structure(((others.size() == first.size()) && ...));
  std::vector<T> mapped;
  mapped.reserve(first.size());
  for (std::size_t i = 0; i < first.size(); ++i)
    mapped.push_back(map_tensors(change, first[i], others[i]...));
  return mapped;
}

template <class Change, class T, class... Others>
std::optional<T> map_container(Change& change, const std::optional<T>& first,
                               const Others&... others) {
  check_same_structure(((others.has_value() == first.has_value()) && ...));
  if (!first) return std::nullopt;
  return map_tensors(change, *first, *others...);
}

template <class Change, class Key, class T, class... Others>
torch::OrderedDict<Key, T> map_container(Change& change, const torch::OrderedDict<Key, T>& first,
                                         const Others&... others) {
  check_same_structure(((others.size() == first.size()) && ...));
  torch::OrderedDict<Key, T> mapped;
  for (const auto& item : first) {
    check_same_structure((others.contains(item.key()) && ...));
    mapped.insert(item.key(), map_tensors(change, item.value(), others[item.key()]...));
  }
  return mapped;
}

/// std::map and std::unordered_map.
template <class Change, class Map, class... Others>
Map map_container(Change& change, const Map& first, const Others&... others) {
  check_same_structure(((others.size() == first.size()) && ...));
  Map mapped;
  for (const auto& [key, value] : first) {
    check_same_structure((others.contains(key) && ...));
    mapped.emplace(key, map_tensors(change, value, others.at(key)...));
  }
  return mapped;
}

template <class Change, OwnsItsTensors Nest, std::same_as<Nest>... Others>
auto map_tensors(Change& change, const Nest& first, const Others&... others) {
  if constexpr (std::is_same_v<Nest, at::TensorList>) {
    return map_tensors(change, first.vec(), others.vec()...);
  } else if constexpr (!HoldsTensors<Nest>) {
    return first;
  } else if constexpr (std::is_same_v<Nest, at::Tensor>) {
    return at::Tensor(change(first, others...));
  } else if constexpr (!TupleLike<Nest>) {
    return map_container(change, first, others...);
  } else {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      const auto part = [&]<std::size_t i>(std::integral_constant<std::size_t, i>) {
        return map_tensors(change, std::get<i>(first), std::get<i>(others)...);
      };
      return Nest{part(std::integral_constant<std::size_t, I>())...};
    }
    (std::make_index_sequence<std::tuple_size_v<Nest>>{});
  }
}

/// Calls `visit(tensor)` for every tensor of `nest`, from the first to the last.
template <class Visit, class Nest>
void visit_tensors(const Visit& visit, const Nest& nest) {
  if constexpr (HoldsTensors<Nest>) {
    auto keep = [&](const at::Tensor& tensor) {
      visit(tensor);
      return tensor;
    };
    map_tensors(keep, nest);
  }
}

/// The device type of the first tensor among `nests`, if any.
template <class... Nests>
std::optional<c10::DeviceType> first_device_type(const Nests&... nests) {
  std::optional<c10::DeviceType> first;
  [[maybe_unused]] const auto look = [&](const at::Tensor& tensor) {
    if (!first && tensor.defined()) first = tensor.device().type();
  };
  (visit_tensors(look, nests), ...);
  return first;
}

/// An argument for a function: mapped where it holds tensors, else passed on as it came.
template <class Change, class Argument>
decltype(auto) map_argument(Change& change, Argument&& argument) {
  if constexpr (HoldsTensors<std::remove_cvref_t<Argument>>)
    return map_tensors(change, argument);
  else
    return std::forward<Argument>(argument);
}

/// Casts the tensors that `wanted` names to a dtype; those that have it stay themselves.
template <class Wanted>
class CastWhere {
 public:
  CastWhere(Wanted wanted, c10::ScalarType dtype) : wanted_(std::move(wanted)), dtype_(dtype) {}
  at::Tensor operator()(const at::Tensor& tensor) const {
    return tensor.defined() && wanted_(tensor) ? tensor.to(dtype_) : tensor;
  }

 private:
  Wanted wanted_;
  c10::ScalarType dtype_;
};

inline auto cast_floating(c10::ScalarType dtype) {
  return CastWhere([](const at::Tensor& tensor) { return tensor.is_floating_point(); }, dtype);
}

}  // namespace halfstep::detail
