#pragma once
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

template <class T>
inline constexpr bool is_vector = false;
template <class T, class Allocator>
inline constexpr bool is_vector<std::vector<T, Allocator>> = true;

/// std::array, std::pair and std::tuple.
template <class T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};

template <class T>
constexpr bool is_tensor_nest() {
  if constexpr (std::is_same_v<T, at::Tensor>) {
    return true;
  } else if constexpr (is_vector<T>) {
    return is_tensor_nest<typename T::value_type>();
  } else if constexpr (TupleLike<T>) {
    return []<std::size_t... I>(std::index_sequence<I...>) {
      return (is_tensor_nest<std::tuple_element_t<I, T>>() && ...);
    }
    (std::make_index_sequence<std::tuple_size_v<T>>{});
  } else {
    return false;
  }
}

/// A tensor, or vectors, arrays, pairs and tuples of tensors in any nesting.
template <class T>
concept TensorNest = is_tensor_nest<T>();

/// `nest` with every tensor replaced by `change(tensor)`, from the first to the last.
template <TensorNest Nest, class Change>
Nest map_tensors(const Nest& nest, Change& change) {
  if constexpr (std::is_same_v<Nest, at::Tensor>) {
    return change(nest);
  } else if constexpr (is_vector<Nest>) {
    Nest changed;
    changed.reserve(nest.size());
    for (const auto& part : nest) changed.push_back(map_tensors(part, change));
    return changed;
  } else {
    return std::apply([&](const auto&... parts) { return Nest{map_tensors(parts, change)...}; },
                      nest);
  }
}

}  // namespace halfstep::detail
