#include "halfstep/precision/dtype_policy.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/precision/policy_names.h"

#include <mutex>
#include <optional>
#include <ostream>

#include <c10/core/DefaultDtype.h>

namespace halfstep {

namespace {

void check_dtype(c10::ScalarType dtype, const char* field) {
  const bool known = is_low_precision(dtype) || dtype == c10::ScalarType::Float ||
                     dtype == c10::ScalarType::Double;
  HALFSTEP_CHECK_USAGE(known, "DtypePolicy", field,
                       " must be float32, float16, bfloat16 or float64, but got ",
                       dtype_name(dtype), "; a policy casts floating-point tensors only");
}

DtypePolicy of_keras(std::string_view name) {
  using namespace std::string_view_literals;
  if (name == "mixed_float16"sv) return {c10::kFloat, c10::kHalf, c10::kHalf};
  if (name == "mixed_bfloat16"sv) return {c10::kFloat, c10::kBFloat16, c10::kBFloat16};
  for (const auto dtype : {c10::kFloat, c10::kHalf, c10::kBFloat16, c10::kDouble}) {
    if (name == dtype_name(dtype)) return {dtype, dtype, dtype};
  }
  detail::raise<UsageError>("DtypePolicy",
                            "a name must be mixed_float16, mixed_bfloat16, float32, float16, "
                            "bfloat16 or float64, but got '",
                            name, "'; ",
                            detail::advice_for_policy(name, detail::Vocabulary::keras));
}

std::mutex global_mutex;
std::optional<DtypePolicy> global_policy;

}  // namespace

DtypePolicy::DtypePolicy() : DtypePolicy(dtype_policy()) {}

DtypePolicy::DtypePolicy(c10::ScalarType param_dtype, c10::ScalarType compute_dtype,
                         c10::ScalarType output_dtype)
    : param_(param_dtype), compute_(compute_dtype), output_(output_dtype) {
  check_dtype(param_, "param_dtype");
  check_dtype(compute_, "compute_dtype");
  check_dtype(output_, "output_dtype");
}

DtypePolicy::DtypePolicy(std::string_view name) : DtypePolicy(of_keras(name)) {}

AutocastOptions DtypePolicy::autocast(c10::DeviceType device_type) const {
  AutocastOptions options(device_type);
  if (!is_mixed()) return options.enabled(false);
  HALFSTEP_CHECK_USAGE(is_low_precision(compute_) && param_ != c10::kDouble, "DtypePolicy",
                       "autocast must go from parameters of at most 32 bits to a compute dtype of "
                       "16, but got ",
                       str(), "; choose equal dtypes, or float32 parameters");
  return options.dtype(compute_);
}

std::string DtypePolicy::name() const {
  if (compute_ == output_ && param_ == compute_) return dtype_name(param_);
  if (compute_ == output_ && param_ == c10::kFloat && is_low_precision(compute_))
    return "mixed_" + dtype_name(compute_);
  return str();
}

std::string DtypePolicy::str() const {
  return "p=" + detail::jmp_name(param_) + ",c=" + detail::jmp_name(compute_) +
         ",o=" + detail::jmp_name(output_);
}

std::ostream& operator<<(std::ostream& out, const DtypePolicy& policy) {
  return out << policy.str();
}

DtypePolicy dtype_policy() {
  const std::scoped_lock lock(global_mutex);
  if (global_policy) return *global_policy;
  const auto dtype = c10::get_default_dtype_as_scalartype();
  return {dtype, dtype, dtype};
}

void set_dtype_policy(const DtypePolicy& policy) {
  const std::scoped_lock lock(global_mutex);
  global_policy = policy;
}

}  // namespace halfstep
