#include "halfstep/autocast/register_autocast.h"

#include "halfstep/autocast/front_kernel.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/op_policy.h"
#include "halfstep/autocast/policy_region.h"
#include "halfstep/autocast/ruled_call.h"
#include "halfstep/core/error.h"

#include <memory>
#include <vector>

#include <ATen/autocast_mode.h>

namespace halfstep {

namespace {

/// An op's own rule. A policy that names the op has a kernel in front of this one.
class OwnRule final : public detail::FrontKernel {
 public:
  OwnRule(const c10::OperatorHandle& op, CastRule rule, c10::DeviceType device_type)
      : call_(op, device_type), rule_(rule), device_type_(device_type) {}

  void call(const c10::OperatorHandle&, c10::DispatchKeySet, torch::jit::Stack* stack,
            const c10::SafeKernelFunction&) override {
    auto* region = detail::PolicyRegion::current(device_type_);
    call_.run(rule_, region != nullptr ? &region->cache() : nullptr, nullptr, stack);
  }

 private:
  detail::RuledCall call_;
  CastRule rule_;
  c10::DeviceType device_type_;
};

}  // namespace

void register_autocast(const std::string& op, CastRule rule, c10::DeviceType device_type) {
  constexpr const char* where = "register_autocast";
  HALFSTEP_CHECK_USAGE(at::autocast::is_autocast_available(device_type), where,
                       "device_type must be one with autocast, but got ",
                       c10::DeviceTypeName(device_type, true), "; use cpu or cuda");
  HALFSTEP_CHECK_USAGE(op.find("::") != std::string::npos && op.rfind("aten::", 0) != 0, where,
                       "the op must be of a library of your own, \"mylib::op\", but got '", op,
                       "'; LibTorch's own ops are changed by an OpPolicy");
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_type);
  std::vector<c10::OperatorHandle> overloads;  // those that can follow the rule; throws for none
  for (const auto& [name, its_rule] : OpPolicy().set(op, rule).rules())
    overloads.push_back(*detail::find_op(name));
  for (const auto& overload : overloads) {
    HALFSTEP_CHECK_USAGE(!overload.hasKernelForDispatchKey(key), where,
                         "the op must have no autocast kernel yet, but ",
                         detail::op_name(overload.operator_name()),
                         " has one; register it once, before a policy names it");
  }
  for (const auto& overload : overloads)
    detail::put_in_front(overload, key, std::make_unique<OwnRule>(overload, rule, device_type));
}

}  // namespace halfstep
