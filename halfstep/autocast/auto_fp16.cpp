#include "halfstep/autocast/auto_fp16.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <set>
#include <typeindex>

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>
#include <c10/util/Type.h>

namespace halfstep {

Fp16Enabled::~Fp16Enabled() = default;

int64_t wrap_fp16_model(torch::nn::Module& model, c10::ScalarType dtype) {
  HALFSTEP_CHECK_USAGE(is_low_precision(dtype), "wrap_fp16_model",
                       "dtype must be float16 or bfloat16, but got ", dtype_name(dtype),
                       "; to train in full precision leave the call out");
  int64_t count = 0;
  const auto enable = [&](torch::nn::Module& module) {
    auto* flag = dynamic_cast<Fp16Enabled*>(&module);
    if (flag == nullptr) return;
    flag->fp16_enabled = true;
    flag->fp16_dtype = dtype;
    ++count;
  };
  enable(model);
  for (const auto& module : model.modules(/*include_self=*/false)) enable(*module);
  if (count == 0) {
    TORCH_WARN(
        "[wrap_fp16_model] a module must derive from halfstep::Fp16Enabled to be enabled, "
        "but none of this model does, so nothing will be cast; add the base class, or use "
        "halfstep::Autocast around the forward");
  }
  return count;
}

namespace detail {

void ChosenArguments::resolve(const char* where, std::optional<std::size_t> arity) {
  HALFSTEP_CHECK_USAGE(!arity || names_.empty() || names_.size() == *arity, where,
                       "argument_names must have a name for each of the method's ",
                       arity.value_or(0), " arguments, but got ", names_.size(),
                       "; name all, in order, without the module");
  for (const auto& name : unresolved_) {
    const auto place = std::find(names_.begin(), names_.end(), name);
    HALFSTEP_CHECK_USAGE(place != names_.end(), where, "apply_to must name arguments, but got '",
                         name,
                         names_.empty() ? std::string("' without argument_names")
                                        : "' where they are " + c10::Join(", ", names_),
                         "; give the names of all arguments by argument_names, or positions");
    positions_.push_back(static_cast<std::size_t>(place - names_.begin()));
  }
  unresolved_.clear();
  const auto any = std::numeric_limits<std::size_t>::max();
  const auto count = arity.value_or(names_.empty() ? any : names_.size());
  for (const auto position : positions_) {
    HALFSTEP_CHECK_USAGE(position < count, where, "apply_to must be a position from 0 to ",
                         count - 1, ", but got ", position, "; the module itself does not count");
  }
}

bool ChosenArguments::has(std::size_t position) const {
  return all_ || std::find(positions_.begin(), positions_.end(), position) != positions_.end();
}

const Fp16Enabled* fp16_flag(const Fp16Enabled* flag, const std::type_info& type,
                             const char* where) {
  if (flag != nullptr) return flag;
  static std::mutex mutex;
  static std::set<std::type_index> told;
  {
    const std::scoped_lock lock(mutex);
    if (!told.insert(type).second) return nullptr;
  }
  TORCH_WARN("[", where, "] a wrapped class must derive from halfstep::Fp16Enabled, but ",
             c10::demangle(type.name()),
             " does not, so nothing is cast; add it as a base class beside torch::nn::Module");
  return nullptr;
}

AutocastOptions wrapper_region(Precision precision, c10::DeviceType device_type,
                               c10::ScalarType low_dtype) {
  AutocastOptions options(device_type);
  return precision == Precision::low ? options.dtype(low_dtype) : options.enabled(false);
}

at::Tensor CastForPrecision::operator()(const at::Tensor& tensor) const {
  if (!tensor.defined()) return tensor;
  if (precision_ == Precision::full)
    return is_low_precision(tensor.scalar_type()) ? tensor.to(c10::kFloat) : tensor;
  return tensor.scalar_type() == c10::kFloat ? tensor.to(low_dtype_) : tensor;
}

}  // namespace detail

}  // namespace halfstep
