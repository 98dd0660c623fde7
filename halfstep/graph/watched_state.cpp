#include "halfstep/graph/watched_state.h"

namespace halfstep::detail {

WatchedState::WatchedState(const Program& program, const torch::nn::Module& root)
    : root_(&root), root_trains_(root.is_training()) {
  for (auto& module : root.modules(/*include_self=*/false)) {
    const bool trains = module->is_training();
    modules_.emplace_back(std::move(module), trains);
  }
  for (const auto& value : program.values) {
    if (value.kind == ValueKind::external)
      tensors_.push_back(
          {value.tensor, value.geometry, value.tensor.requires_grad(), 0, value.name});
  }
}

void WatchedState::count_uses() {
  for (auto& watched : tensors_) watched.uses = watched.tensor.use_count();
}

bool WatchedState::holds(const c10::StorageImpl* storage) const {
  for (const auto& watched : tensors_) {
    if (watched.tensor.has_storage() && watched.tensor.storage().unsafeGetStorageImpl() == storage)
      return true;
  }
  return false;
}

std::optional<std::string> WatchedState::change() const {
  if (root_->is_training() != root_trains_) return "train() or eval() was called";
  for (const auto& [module, trains] : modules_) {
    if (module->is_training() != trains)
      return "train() or eval() was called on a " + module->name();
  }
  for (const auto& watched : tensors_) {
    const auto& tensor = watched.tensor;
    const auto& was = watched.geometry;
    if (tensor.sizes() != was.sizes || tensor.strides() != was.strides ||
        tensor.scalar_type() != was.dtype || tensor.device() != was.device ||
        tensor.storage_offset() != was.offset)
      return watched.name + " became " + Geometry::of(tensor).to_string();
    if (tensor.requires_grad() != watched.requires_grad)
      return watched.name + (watched.requires_grad ? " was frozen" : " was unfrozen");
    if (tensor.use_count() < watched.uses) return watched.name + " may have been replaced";
  }
  return std::nullopt;
}

}  // namespace halfstep::detail
