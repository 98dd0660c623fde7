#include "halfstep/graph/check_replay.h"

#include "halfstep/core/error.h"
#include "halfstep/graph/reordering.h"
#include "halfstep/graph/saved_state.h"

#include <algorithm>
#include <optional>
#include <string>

namespace halfstep::detail {

namespace {

using Tensors = std::vector<at::Tensor>;
using Ids = std::vector<std::optional<ValueId>>;

/// Compares what an eager run and a replay left.
class Comparison {
 public:
  explicit Comparison(const Program& program) : reordered_(reordered_values(program)) {}

  /// Tensors of one kind, the values `ids`; `name(i)` says which.
  template <class Name>
  void compare(const Ids& ids, const Tensors& eager, const Tensors& replayed,
               const Name& name) const {
    double largest = 0;
    for (size_t i = 0; i < eager.size(); ++i) {
      const auto coarsest = ids[i] ? reordered_[size_t(*ids[i])] : std::nullopt;
      if (coarsest) {
        if (largest == 0) largest = largest_of(eager);
        const auto scale = std::max(largest_magnitude(eager[i]), largest / 64);
        const auto how = too_far(eager[i], replayed[i], reordering_bound(*coarsest) * scale);
        HALFSTEP_CHECK_USAGE(
            how.empty(), "Graph",
            "a replay whose passes reorder arithmetic must stay near an eager run, "
            "but ",
            name(i), " ", how,
            "; switch the pass off (config().enable_pass) if that is too far, and "
            "pass host values and memory written through pointers as tensors");
      } else {
        HALFSTEP_CHECK_USAGE(
            same_bits_but_nans(eager[i], replayed[i]), "Graph",
            "a replay must have the bits of an eager run, but ", name(i),
            " differs; build uses or changes something a recording can't see (a host value, memory "
            "written through a pointer): pass it as a tensor");
      }
    }
  }

 private:
  static double largest_of(const Tensors& tensors) {
    double largest = 0;
    for (const auto& tensor : tensors) largest = std::max(largest, largest_magnitude(tensor));
    return largest;
  }

  std::vector<std::optional<c10::ScalarType>> reordered_;
};

}  // namespace

StepResults check_replay(const Program& program, const Tensors& inputs,
                         const std::function<StepResults()>& replay,
                         const std::function<StepResults(const Tensors& inputs)>& eager) {
  Tensors read;
  Ids read_ids;
  for (size_t id = 0; id < program.values.size(); ++id) {
    if (program.values[id].kind != ValueKind::external) continue;
    read.push_back(program.values[id].tensor);
    read_ids.emplace_back(ValueId(id));
  }
  SavedState before(read, inputs);
  const auto own_inputs = copies_of(inputs);
  auto expected = eager(own_inputs);
  const auto after = copies_of(read);
  before.restore();
  auto results = replay();

  const Comparison comparison(program);
  const auto numbered = [](const char* what) {
    return [what](size_t i) { return what + std::to_string(i); };
  };
  comparison.compare(program.outputs, expected.outputs, results.outputs, numbered("output "));
  comparison.compare(program.gradients, expected.gradients, results.gradients,
                     numbered("the gradient of parameter "));
  comparison.compare(Ids(program.inputs.begin(), program.inputs.end()), own_inputs, inputs,
                     numbered("what it left in input "));
  comparison.compare(read_ids, after, read, [&](size_t i) {
    return program.value(*read_ids[i]).name + ", a tensor it uses,";
  });
  return results;
}

}  // namespace halfstep::detail
