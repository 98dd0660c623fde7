#include "halfstep/optim_wrapper/gradient_sync.h"

namespace halfstep {

// Out of line: the one home of the type information that dynamic_cast compares.
GradientSync::~GradientSync() = default;

NoSync::NoSync(GradientSync* module) : module_(module) {
  if (module_ == nullptr) return;
  required_ = module_->requires_sync();
  module_->set_requires_sync(false);
}

NoSync::~NoSync() {
  if (module_ != nullptr) module_->set_requires_sync(required_);
}

}  // namespace halfstep
