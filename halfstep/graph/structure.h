#pragma once
#include "halfstep/core/nested.h"

#include <functional>
#include <vector>

namespace halfstep::detail {

/// Appends what tells a nest of tensors from another of its type: sizes, keys, which optionals
/// hold something.
template <TensorNest Nest>
void append_structure(const Nest& nest, std::vector<size_t>& structure) {
  if constexpr (std::is_same_v<Nest, at::Tensor>) {
    structure.push_back(nest.defined() ? 1 : 0);
  } else if constexpr (TupleLike<Nest>) {
    std::apply([&](const auto&... parts) { (append_structure(parts, structure), ...); }, nest);
  } else if constexpr (requires { nest.has_value(); }) {
    structure.push_back(nest.has_value() ? 1 : 0);
    if (nest) append_structure(*nest, structure);
  } else if constexpr (requires { nest.keys(); }) {  // OrderedDict
    structure.push_back(nest.size());
    for (const auto& item : nest) {
      structure.push_back(std::hash<std::decay_t<decltype(item.key())>>()(item.key()));
      append_structure(item.value(), structure);
    }
  } else {
    structure.push_back(nest.size());
    for (const auto& item : nest) {
      if constexpr (requires { item.second; }) {
        structure.push_back(std::hash<std::decay_t<decltype(item.first)>>()(item.first));
        append_structure(item.second, structure);
      } else {
        append_structure(item, structure);
      }
    }
  }
}

/// The tensors of `nest`, first to last, undefined ones too.
template <TensorNest Nest>
void append_tensors(const Nest& nest, std::vector<at::Tensor>& tensors) {
  visit_tensors([&](const at::Tensor& tensor) { tensors.push_back(tensor); }, nest);
}

/// `nest` with the tensors of `tensors` from position `next` on in the places of its own.
template <TensorNest Nest>
Nest with_tensors(const Nest& nest, const std::vector<at::Tensor>& tensors, size_t& next) {
  auto take = [&](const at::Tensor&) { return tensors[next++]; };
  return map_tensors(take, nest);
}

}  // namespace halfstep::detail
