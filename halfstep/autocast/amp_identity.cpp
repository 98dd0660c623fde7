#include "halfstep/autocast/amp_identity.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/alias.h>
#include <torch/library.h>

namespace halfstep {

namespace {

using Identity = at::Tensor(const at::Tensor&);

at::Tensor alias(const at::Tensor& x) {
  return at::alias(x);
}

c10::TypedOperatorHandle<Identity> op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Identity>();
}

}  // namespace

// Ops of their own, so that whoever watches the dispatcher sees them.
TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def("amp_white_identity(Tensor(a) x) -> Tensor(a)", alias);
  library.def("amp_black_identity(Tensor(a) x) -> Tensor(a)", alias);
}

at::Tensor amp_white_identity(const at::Tensor& x) {
  static const auto identity = op("halfstep::amp_white_identity");
  return identity.call(x);
}

at::Tensor amp_black_identity(const at::Tensor& x) {
  static const auto identity = op("halfstep::amp_black_identity");
  return identity.call(x);
}

}  // namespace halfstep
