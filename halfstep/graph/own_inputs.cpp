#include "halfstep/graph/own_inputs.h"

#include "halfstep/core/error.h"
#include "halfstep/graph/strided_copy.h"

namespace halfstep::detail {

const c10::StorageImpl* storage_of(const at::Tensor& tensor) {
  return tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
}

OwnInputs::OwnInputs(const std::vector<at::Tensor>& inputs,
                     const std::function<bool(const c10::StorageImpl*)>& is_of_others) {
  for (const auto& input : inputs) {
    if (!input.defined()) continue;
    bool shared = is_of_others(storage_of(input));
    for (const auto& earlier : tensors) shared = shared || storage_of(earlier) == storage_of(input);
    tensors.push_back(shared ? strided_copy(input) : input);
    copied.push_back(shared);
    HALFSTEP_CHECK_USAGE(tensors.back().strides() == input.strides(), "Graph",
                         "an input whose elements overlap must have memory of its own, but one of ",
                         input.sizes(), " with strides ", input.strides(),
                         " shares it with another input or with the model; pass a clone()");
  }
}

void OwnInputs::check_writes(const Program& program) const {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& value = program.value(program.inputs[i]);
    HALFSTEP_CHECK_USAGE(!copied[i] || !value.writes, "Graph",
                         "an input that build changes in place must have memory of its own, but ",
                         value.name,
                         " shares it with another input or with the model; pass a clone()");
  }
}

}  // namespace halfstep::detail
