#include "halfstep/inspect/dtype_counter.h"

#include "halfstep/core/error.h"
#include "halfstep/inspect/op_observer.h"

namespace halfstep::inspect {

DtypeCounter::DtypeCounter() {
  detail::OpObserver::of_this_thread().add(&report_);
}

DtypeCounter::~DtypeCounter() {
  if (!detail::OpObserver::of_this_thread().remove(&report_))
    halfstep::detail::die(
        "DtypeCounter",
        "a counter must end on the thread that began it, but this one did not; keep it on the "
        "stack");
}

}  // namespace halfstep::inspect
