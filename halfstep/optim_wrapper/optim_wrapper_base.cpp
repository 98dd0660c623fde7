#include "halfstep/optim_wrapper/optim_wrapper_base.h"

namespace halfstep {

// Out of line: the one home of the type information that dynamic_cast compares.
OptimWrapperBase::~OptimWrapperBase() = default;

std::ostream& operator<<(std::ostream& stream, const OptimWrapperBase& wrapper) {
  wrapper.print(stream);
  return stream;
}

torch::serialize::OutputArchive& operator<<(torch::serialize::OutputArchive& archive,
                                            const OptimWrapperBase& wrapper) {
  wrapper.save(archive);
  return archive;
}

torch::serialize::InputArchive& operator>>(torch::serialize::InputArchive& archive,
                                           OptimWrapperBase& wrapper) {
  wrapper.load(archive);
  return archive;
}

}  // namespace halfstep
