#include "halfstep/graph/placed_tensors.h"

#include "halfstep/graph/memory_plan.h"
#include "halfstep/graph/passes/program_uses.h"

#include <memory>

#include <ATen/ops/from_blob.h>
#include <c10/core/CPUAllocator.h>

namespace halfstep::detail {

PlacedTensors PlacedTensors::of(const Program& program) {
  // As LibTorch's allocator does.
  constexpr size_t alignment = 64;
  const MemoryCalls calls(program);
  PlacedTensors placed;
  placed.tensors.resize(program.values.size());
  std::vector<ValueId> ids;
  std::vector<MemoryUse> uses;
  for (const auto& call : program.code) {
    if (!call.placed) continue;
    for (const auto& result : call.results) {
      const auto& geometry = program.value(result.value).geometry;
      const auto& used = calls.of(result.value);
      ids.push_back(result.value);
      uses.push_back({size_t(geometry.numel()) * c10::elementSize(geometry.dtype),
                      int64_t(used.front()), int64_t(used.back()) + 1});
    }
  }
  if (ids.empty()) return placed;
  const auto plan = MemoryPlan::of(uses, alignment);
  const auto memory = std::make_shared<c10::DataPtr>(c10::GetCPUAllocator()->allocate(plan.bytes));
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto& geometry = program.value(ids[i]).geometry;
    placed.tensors[size_t(ids[i])] = at::from_blob(
        static_cast<char*>(memory->get()) + plan.offsets[i], geometry.sizes, geometry.strides,
        [memory](void* /*data*/) {}, at::TensorOptions(geometry.dtype));
  }
  placed.count = ids.size();
  placed.bytes = plan.bytes;
  return placed;
}

}  // namespace halfstep::detail
