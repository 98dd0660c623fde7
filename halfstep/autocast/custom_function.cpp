#include "halfstep/autocast/custom_function.h"

#include "halfstep/autocast/policy_region.h"

#include <utility>
#include <vector>

#include <ATen/autocast_mode.h>
#include <torch/custom_class.h>

namespace halfstep::detail {

namespace {

constexpr const char* kKey = "halfstep::autocast";
constexpr const char* kPolicyKey = "halfstep::policy_region";

/// What saved_data can hold of a region.
struct HeldRegion final : torch::CustomClassHolder {
  explicit HeldRegion(std::shared_ptr<PolicyRegion> held) : region(std::move(held)) {}
  std::shared_ptr<PolicyRegion> region;
};

std::optional<AutocastOptions> noted_options(const torch::autograd::AutogradContext* context) {
  const auto found = context->saved_data.find(kKey);
  if (found == context->saved_data.end()) return std::nullopt;
  const auto noted = found->second.toIntVector();
  AutocastOptions options(static_cast<c10::DeviceType>(noted[0]));
  if (noted[1] == 0) return options.enabled(false);
  return options.dtype(static_cast<c10::ScalarType>(noted[2]));
}

/// The policy region of forward, or one without a policy where forward had none and the caller of
/// backward has.
std::unique_ptr<ResumedPolicyRegion> noted_policy(const torch::autograd::AutogradContext* context) {
  const auto options = noted_options(context);
  if (!options || !options->enabled()) return nullptr;
  if (const auto held = context->saved_data.find(kPolicyKey); held != context->saved_data.end()) {
    const auto capsule = c10::static_intrusive_pointer_cast<HeldRegion>(held->second.toCapsule());
    return std::make_unique<ResumedPolicyRegion>(capsule->region);
  }
  const auto device_type = options->device_type();
  if (PolicyRegion::current(device_type) == nullptr) return nullptr;
  return std::make_unique<ResumedPolicyRegion>(std::make_shared<PolicyRegion>(device_type));
}

}  // namespace

bool autocast_is_enabled(c10::DeviceType device_type) {
  return at::autocast::is_autocast_available(device_type) &&
         at::autocast::is_autocast_enabled(device_type);
}

void note_region(torch::autograd::AutogradContext* context, c10::DeviceType device_type,
                 bool disable) {
  if (!at::autocast::is_autocast_available(device_type)) return;
  const bool enabled = !disable && autocast_is_enabled(device_type);
  const auto dtype = enabled ? at::autocast::get_autocast_dtype(device_type) : c10::kFloat;
  context->saved_data[kKey] =
      std::vector<int64_t>{static_cast<int64_t>(device_type), static_cast<int64_t>(enabled),
                           static_cast<int64_t>(dtype)};
  if (!enabled) return;
  if (auto* region = PolicyRegion::current(device_type)) {
    context->saved_data[kPolicyKey] =
        c10::IValue::make_capsule(c10::make_intrusive<HeldRegion>(region->shared_from_this()));
  }
}

NotedRegion::NotedRegion(const torch::autograd::AutogradContext* context)
    : policy_(noted_policy(context)) {
  if (const auto options = noted_options(context)) autocast_.emplace(*options);
}

NotedRegion::~NotedRegion() = default;

}  // namespace halfstep::detail
