#include "halfstep/graph/check_replay.h"

#include "halfstep/core/error.h"
#include "halfstep/graph/saved_state.h"

#include <string>

namespace halfstep::detail {

namespace {

using Tensors = std::vector<at::Tensor>;

void compare(const Tensors& eager, const Tensors& replayed, const std::string& what) {
  for (size_t i = 0; i < eager.size(); ++i) {
    HALFSTEP_CHECK_USAGE(same_bits(eager[i], replayed[i]), "Graph",
                         "a replay must have the bits of an eager run, but ", what, " ", i,
                         " differs; build uses or changes something a recording can't see (a host "
                         "value, memory written through a pointer): pass it as a tensor");
  }
}

}  // namespace

void check_replay(Replay& replay, const std::vector<at::Tensor>& inputs,
                  const std::function<StepResults(const std::vector<at::Tensor>&)>& eager) {
  Tensors read;
  std::vector<std::string> names;
  for (const auto& value : replay.program().values) {
    if (value.kind != ValueKind::external) continue;
    read.push_back(value.tensor);
    names.push_back(value.name);
  }
  SavedState before(read, inputs);
  const auto own_inputs = copies_of(inputs);
  auto expected = eager(own_inputs);
  const auto after = copies_of(read);
  before.restore();
  replay.run(inputs);
  compare(expected.outputs, replay.outputs(), "output");
  compare(expected.gradients, replay.gradients(), "the gradient of parameter");
  compare(own_inputs, inputs, "what it left in input");
  for (size_t i = 0; i < read.size(); ++i) compare({after[i]}, {read[i]}, names[i] + ", tensor");
}

}  // namespace halfstep::detail
