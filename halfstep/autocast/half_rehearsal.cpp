#include "halfstep/autocast/half_rehearsal.h"

#include "halfstep/autocast/rehearsal_kernels.h"
#include "halfstep/core/libtorch.h"

#include <memory>

namespace halfstep {

namespace {

constexpr std::string_view kRehearsalSlotName = "halfstep::HalfRehearsal";
constexpr auto kRehearsalSlot = detail::debug_info_kind(&kRehearsalSlotName, 0);

struct State final : c10::DebugInfoBase {
  explicit State(bool value) : enabled(value) {}
  bool enabled;
};

}  // namespace

HalfRehearsal::HalfRehearsal(bool enabled) {
  if (enabled) detail::register_rehearsal_kernels();
  entry_.emplace("HalfRehearsal", kRehearsalSlot, std::make_shared<State>(enabled));
}

HalfRehearsal::~HalfRehearsal() = default;

bool HalfRehearsal::is_enabled() {
  const auto* state = static_cast<const State*>(c10::ThreadLocalDebugInfo::get(kRehearsalSlot));
  return state && state->enabled;
}

int64_t HalfRehearsal::uses() {
  return detail::rehearsed_operations();
}

}  // namespace halfstep
