#include "halfstep/autocast/policy_region.h"

#include "halfstep/core/libtorch.h"

#include <utility>

namespace halfstep::detail {

namespace {

constexpr std::string_view kName = "halfstep op policy";
constexpr auto kKind = debug_info_kind(&kName, 1);

PolicyRegion* innermost() {
  return static_cast<PolicyRegion*>(c10::ThreadLocalDebugInfo::get(kKind));
}

std::shared_ptr<PolicyRegion> make_region(c10::DeviceType device_type, const OpPolicy& policy) {
  auto region = std::make_shared<PolicyRegion>(device_type, policy);
  region->policy().register_kernels(device_type);
  return region;
}

}  // namespace

PolicyRegion::PolicyRegion(c10::DeviceType device_type, const OpPolicy& policy)
    : device_type_(device_type), op_policy_(policy), policy_(op_policy_.compiled()) {
  if (auto* surrounding = innermost()) surrounding_ = surrounding->shared_from_this();
}

PolicyRegion::PolicyRegion(c10::DeviceType device_type) : device_type_(device_type) {
  if (auto* surrounding = innermost()) surrounding_ = surrounding->shared_from_this();
}

PolicyRegion* PolicyRegion::current(c10::DeviceType device_type) {
  auto* region = innermost();
  while (region != nullptr && region->device_type_ != device_type)
    region = region->surrounding_.get();
  return region != nullptr && region->policy_ ? region : nullptr;
}

PolicyRegionGuard::PolicyRegionGuard(c10::DeviceType device_type, const OpPolicy& policy)
    : region_(make_region(device_type, policy)), entry_("Autocast", kKind, region_) {}

PolicyRegionGuard::~PolicyRegionGuard() {
  region_->cache().close();
}

ResumedPolicyRegion::ResumedPolicyRegion(std::shared_ptr<PolicyRegion> region)
    : entry_("CustomFunction", kKind, std::move(region)) {}

}  // namespace halfstep::detail
