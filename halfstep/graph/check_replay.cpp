#include "halfstep/graph/check_replay.h"

#include "halfstep/core/error.h"

#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <c10/core/GradMode.h>

namespace halfstep::detail {

namespace {

using Tensors = std::vector<at::Tensor>;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const auto x = a.detach().cpu().contiguous(), y = b.detach().cpu().contiguous();
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

/// The random generator of each device the program uses, as it was.
class Generators {
 public:
  explicit Generators(const Program& program) {
    add(c10::kCPU);
    for (const auto& value : program.values) {
      if (!value.geometry.device.is_cpu()) add(value.geometry.device);
    }
  }
  void restore() {
    for (auto& [generator, state] : states_) {
      const std::lock_guard lock(generator.mutex());
      generator.set_state(state);
    }
  }

 private:
  void add(c10::Device device) {
    auto generator = at::globalContext().defaultGenerator(device);
    for (const auto& [known, state] : states_) {
      if (known == generator) return;
    }
    const std::lock_guard lock(generator.mutex());
    states_.emplace_back(generator, generator.get_state());
  }
  std::vector<std::pair<at::Generator, at::Tensor>> states_;
};

Tensors copies(const Tensors& tensors) {
  Tensors result;
  for (const auto& tensor : tensors) result.push_back(tensor.detach().clone());
  return result;
}

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
  const auto before = copies(read);
  Generators generators(replay.program());
  const auto own_inputs = copies(inputs);
  auto expected = eager(own_inputs);
  const auto after = copies(read);
  {
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < read.size(); ++i) {
      if (!same_bits(before[i], read[i])) read[i].detach().copy_(before[i]);
    }
  }
  generators.restore();
  replay.run(inputs);
  compare(expected.outputs, replay.outputs(), "output");
  compare(expected.gradients, replay.gradients(), "the gradient of parameter");
  compare(own_inputs, inputs, "what it left in input");
  for (size_t i = 0; i < read.size(); ++i) compare({after[i]}, {read[i]}, names[i] + ", tensor");
}

}  // namespace halfstep::detail
