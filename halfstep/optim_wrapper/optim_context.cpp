#include "halfstep/optim_wrapper/optim_context.h"

namespace halfstep {

OptimContext::OptimContext(GradientSync* unsynced, const std::optional<AutocastOptions>& autocast,
                           bool rehearses)
    : no_sync_(unsynced) {
  if (rehearses) rehearsal_.emplace();
  if (autocast) autocast_.emplace(*autocast);
}

// The members end in reverse order, as nested regions must.
OptimContext::~OptimContext() = default;

}  // namespace halfstep
