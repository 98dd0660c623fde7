#include "halfstep/graph/value_table.h"

#include "halfstep/graph/own_inputs.h"

#include <utility>

namespace halfstep::detail {

ValueId ValueTable::add(const at::Tensor& tensor, ValueKind kind, std::string name) {
  const auto id = static_cast<ValueId>(program_.values.size());
  const bool is_kept = kind == ValueKind::external || kind == ValueKind::constant;
  const auto* storage = storage_of(tensor);
  auto& others = by_storage_[storage];
  const auto memory = others.empty() ? memories_++ : program_.value(others.front()).memory;
  program_.values.push_back({kind, std::move(name), Geometry::of(tensor),
                             is_kept ? tensor : at::Tensor(), false, memory});
  remember(tensor, id);
  others.push_back(id);
  storages_.push_back(tensor.storage().getWeakStorageImpl());
  return id;
}

void ValueTable::remember(const at::Tensor& tensor, ValueId id) {
  by_tensor_[tensor.unsafeGetTensorImpl()] = id;
  tensors_.emplace_back(tensor.getIntrusivePtr());
}

std::optional<ValueId> ValueTable::find_exactly(const at::Tensor& tensor) const {
  const auto found = by_tensor_.find(tensor.unsafeGetTensorImpl());
  return found == by_tensor_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<ValueId> ValueTable::find(const at::Tensor& tensor) {
  if (const auto exactly = find_exactly(tensor)) return exactly;
  const auto found = by_storage_.find(storage_of(tensor));
  if (found == by_storage_.end()) return std::nullopt;
  const auto geometry = Geometry::of(tensor);
  for (const auto id : found->second) {
    if (program_.values[size_t(id)].geometry == geometry) {
      remember(tensor, id);
      return id;
    }
  }
  return std::nullopt;
}

std::optional<ValueId> ValueTable::find_memory(const at::Tensor& tensor) const {
  const auto found = by_storage_.find(storage_of(tensor));
  if (found == by_storage_.end()) return std::nullopt;
  for (const auto id : found->second) {
    if (program_.values[size_t(id)].geometry.dtype == tensor.scalar_type()) return id;
  }
  return std::nullopt;
}

void ValueTable::note_written(const at::Tensor& tensor) {
  const auto* storage = storage_of(tensor);
  unwritten_.erase(storage);
  const auto found = by_storage_.find(storage);
  if (found == by_storage_.end()) return;
  for (const auto id : found->second) {
    auto& value = program_.values[size_t(id)];
    if (value.kind == ValueKind::input || value.kind == ValueKind::external) value.writes = true;
  }
}

void ValueTable::note_unwritten(const at::Tensor& tensor) {
  if (tensor.numel() > 0 && tensor.has_storage()) unwritten_.insert(storage_of(tensor));
}

bool ValueTable::is_unwritten(const at::Tensor& tensor) const {
  return tensor.numel() > 0 && unwritten_.count(storage_of(tensor)) != 0;
}

bool ValueTable::is_in_input(const at::Tensor& tensor) const {
  const auto found = by_storage_.find(storage_of(tensor));
  if (found == by_storage_.end()) return false;
  for (const auto id : found->second) {
    if (program_.values[size_t(id)].kind == ValueKind::input) return true;
  }
  return false;
}

}  // namespace halfstep::detail
