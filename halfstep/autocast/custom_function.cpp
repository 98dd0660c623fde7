#include "halfstep/autocast/custom_function.h"

#include <vector>

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

namespace {
constexpr const char* kKey = "halfstep::autocast";
}

bool autocast_is_enabled(c10::DeviceType device_type) {
  return at::autocast::is_autocast_available(device_type) &&
         at::autocast::is_autocast_enabled(device_type);
}

void note_region(torch::autograd::AutogradContext* context, c10::DeviceType device_type,
                 bool disable) {
  const bool enabled = !disable && autocast_is_enabled(device_type);
  const auto dtype = enabled ? at::autocast::get_autocast_dtype(device_type) : c10::kFloat;
  context->saved_data[kKey] =
      std::vector<int64_t>{static_cast<int64_t>(device_type), static_cast<int64_t>(enabled),
                           static_cast<int64_t>(dtype)};
}

AutocastOptions noted_region(const torch::autograd::AutogradContext* context) {
  const auto noted = context->saved_data.at(kKey).toIntVector();
  AutocastOptions options(static_cast<c10::DeviceType>(noted[0]));
  if (noted[1] == 0) return options.enabled(false);
  return options.dtype(static_cast<c10::ScalarType>(noted[2]));
}

}  // namespace halfstep::detail
