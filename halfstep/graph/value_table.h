#pragma once
#include "halfstep/graph/program.h"

#include <unordered_map>
#include <unordered_set>

#include <c10/core/StorageImpl.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/intrusive_ptr.h>

namespace halfstep::detail {

/// Which tensor is which value of a Program, while that is recorded. Tensors are known by their
/// TensorImpl, or else by memory, geometry and dtype: autograd unpacks what it saved into new ones.
/// Holds weak references only, which keep addresses from being used again and nothing else alive:
/// a strong one would make autograd copy gradients that it can take as they are.
class ValueTable {
 public:
  explicit ValueTable(Program& program) : program_(program) {}

  /// A new value for `tensor`, which has memory; kept alive by the program where it is external or
  /// constant.
  ValueId add(const at::Tensor& tensor, ValueKind kind, std::string name);

  /// The value of `tensor`, if it is one.
  std::optional<ValueId> find(const at::Tensor& tensor);

  /// The same by TensorImpl alone.
  std::optional<ValueId> find_exactly(const at::Tensor& tensor) const;

  /// A value in the same memory and of the same dtype, if any.
  std::optional<ValueId> find_memory(const at::Tensor& tensor) const;

  /// Notes that the memory of `tensor` was written, and marks the inputs and external values there.
  void note_written(const at::Tensor& tensor);

  /// Notes that the memory of `tensor` came as it was found.
  void note_unwritten(const at::Tensor& tensor);
  bool is_unwritten(const at::Tensor& tensor) const;

  /// Whether `tensor` lies in the memory of an input.
  bool is_in_input(const at::Tensor& tensor) const;

 private:
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

  void remember(const at::Tensor& tensor, ValueId id);

  Program& program_;
  std::unordered_map<const c10::TensorImpl*, ValueId> by_tensor_;
  std::unordered_map<const c10::StorageImpl*, std::vector<ValueId>> by_storage_;
  std::unordered_set<const c10::StorageImpl*> unwritten_;
  int32_t memories_ = 0;
  std::vector<WeakTensor> tensors_;
  std::vector<WeakStorage> storages_;
};

}  // namespace halfstep::detail
