#include "halfstep/autocast/autocast_kernels.h"

#include "halfstep/autocast/front_kernel.h"
#include "halfstep/autocast/list_kernels.h"
#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/policy_region.h"
#include "halfstep/autocast/ruled_call.h"
#include "halfstep/autocast/stock_rules.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <set>

#include <ATen/autocast_mode.h>

namespace halfstep::detail {

namespace {

std::atomic<StandIn> stand_in_offer = nullptr;

/// Whose kernel stands behind.
enum class Behind {
  nobodys,    ///< the call falls through
  libtorchs,  ///< what LibTorch's list says
  anothers,   ///< a library's, for an op of its own
};

class AutocastKernel final : public FrontKernel {
 public:
  AutocastKernel(const c10::OperatorHandle& op, c10::DeviceType device_type, Behind behind,
                 std::optional<StockRule> listed)
      : call_(op, device_type),
        device_type_(device_type),
        index_(op_index(op_name(op.operator_name()))),
        behind_(behind),
        listed_(listed) {}

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    auto* region = PolicyRegion::current(device_type_);
    const auto stand_in = stand_in_offer.load(std::memory_order_acquire);
    if (region == nullptr) {
      if (stand_in != nullptr && takes_stand_ins()) call_.use_stand_ins(stand_in, stack);
      return call_stock(op, keys, stack, stock);
    }
    const auto rule = region->policy().rule(index_, op, call_.arguments(*stack));
    // A policy that does not name another library's op leaves that library's kernel alone.
    if (rule ? is_stocks(*rule) : behind_ == Behind::anothers)
      return call_stock(op, keys, stack, stock);
    if (!rule) return call_.fall_through(keys, stack);
    call_.run(*rule, &region->cache(), stand_in, stack);
  }

 private:
  void call_stock(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
                  const c10::SafeKernelFunction& stock) const {
    if (behind_ == Behind::nobodys)
      call_.fall_through(keys, stack);
    else
      stock.callBoxed(op, keys, stack);
  }
  bool takes_stand_ins() const {
    return listed_ && listed_->rule == CastRule::lower_precision && !listed_->only_itself;
  }
  /// Whether only LibTorch's kernel does what the rule says, or says it in its own words.
  bool is_stocks(CastRule rule) const {
    return listed_ && listed_->rule == rule && (listed_->only_itself || rule == CastRule::banned);
  }

  RuledCall call_;
  c10::DeviceType device_type_;
  size_t index_;
  Behind behind_;
  std::optional<StockRule> listed_;
};

/// Puts kernels in front of those of `ops` that have none of ours.
void register_missing(c10::DeviceType device_type, const std::vector<std::string>& ops) {
  static std::mutex mutex;
  static std::set<std::pair<c10::DeviceType, std::string>> registered;
  const auto& list = stock_rules(device_type);
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_type);
  const std::lock_guard lock(mutex);
  for (const auto& name : ops) {
    const auto op = find_op(name);
    if (!op || registered.count({device_type, name}) != 0) continue;
    const auto found = list.find(name);
    const bool listed = found != list.end();
    const auto behind = listed                             ? Behind::libtorchs
                        : op->hasKernelForDispatchKey(key) ? Behind::anothers
                                                           : Behind::nobodys;
    std::unique_ptr<FrontKernel> kernel = std::make_unique<AutocastKernel>(
        *op, device_type, behind, listed ? std::optional(found->second) : std::nullopt);
    const bool promoted = listed && found->second.rule == CastRule::promote;
    if (auto list_kernel = promoted ? make_list_kernel(*op, device_type, kernel) : std::nullopt)
      put_in_front(*op, key, std::move(*list_kernel));
    else
      put_in_front(*op, key, std::move(kernel));
    registered.emplace(device_type, name);
  }
}

}  // namespace

void register_autocast_kernels(c10::DeviceType device_type, const std::vector<std::string>& ops) {
  std::vector<std::string> all = ops;
  for (const auto& [name, rule] : stock_rules(device_type)) all.push_back(name);
  register_missing(device_type, all);
}

void offer_stand_ins(c10::DeviceType device_type, StandIn stand_in) {
  std::vector<std::string> lower;
  for (const auto& [name, stock] : stock_rules(device_type)) {
    if (stock.rule == CastRule::lower_precision) lower.push_back(name);
  }
  stand_in_offer.store(stand_in, std::memory_order_release);
  register_missing(device_type, lower);
}

StandIn offered_stand_ins() {
  return stand_in_offer.load(std::memory_order_acquire);
}

}  // namespace halfstep::detail
