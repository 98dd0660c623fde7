#include "halfstep/autocast/module_scope.h"

#include "halfstep/core/libtorch.h"

#include <utility>

namespace halfstep {

namespace {

constexpr std::string_view kScopeSlotName = "halfstep::ModuleScope";
constexpr auto kScopeSlot = detail::debug_info_kind(&kScopeSlotName, 2);

std::shared_ptr<detail::ModuleScopeState> make_state(const torch::nn::Module* module,
                                                     std::string path) {
  auto state = std::make_shared<detail::ModuleScopeState>();
  state->module = module;
  state->path = std::move(path);
  if (const auto* outer = detail::ModuleScopeState::current())
    state->outer = outer->shared_from_this();
  return state;
}

}  // namespace

const detail::ModuleScopeState* detail::ModuleScopeState::current() {
  return static_cast<const ModuleScopeState*>(c10::ThreadLocalDebugInfo::get(kScopeSlot));
}

ModuleScope::ModuleScope(const torch::nn::Module& module) : ModuleScope(&module, "") {}

ModuleScope::ModuleScope(std::string path) : ModuleScope(nullptr, std::move(path)) {}

ModuleScope::ModuleScope(const torch::nn::Module* module, std::string path)
    : entry_("ModuleScope", kScopeSlot, make_state(module, std::move(path))) {}

}  // namespace halfstep
