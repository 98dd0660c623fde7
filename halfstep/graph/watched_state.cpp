#include "halfstep/graph/watched_state.h"

#include "halfstep/autocast/shadow_weights.h"
#include "halfstep/graph/own_inputs.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace halfstep::detail {

namespace {

std::vector<at::Tensor> tensors_of(const torch::nn::Module& module) {
  auto tensors = module.parameters(/*recurse=*/false);
  for (auto& buffer : module.buffers(/*recurse=*/false)) tensors.push_back(std::move(buffer));
  return tensors;
}

bool is_same(const at::Tensor& a, const at::Tensor& b) {
  return a.is_same(b);
}

}  // namespace

WatchedState::WatchedState(const Program& program, const torch::nn::Module& root,
                           const std::vector<at::Tensor>& weights) {
  add(root, nullptr);
  for (const auto& value : program.values) {
    if (value.kind == ValueKind::external)
      tensors_.push_back(
          {value.tensor, value.geometry, value.tensor.requires_grad(), 0, value.name, 0});
  }
  std::unordered_map<const c10::StorageImpl*, size_t> first;
  for (size_t i = 0; i < tensors_.size(); ++i)
    tensors_[i].first_in_memory =
        first.try_emplace(storage_of(tensors_[i].tensor), i).first->second;
  for (const auto& weight : weights) {
    const auto copy = shadow_of(weight);
    const bool is_read = copy.defined() &&
                         std::any_of(tensors_.begin(), tensors_.end(), [&](const Watched& watched) {
                           return watched.tensor.is_same(copy);
                         });
    if (!is_read) continue;
    weights_.push_back(weight);
    copies_.push_back(copy);
  }
}

void WatchedState::add(const torch::nn::Module& module, std::shared_ptr<torch::nn::Module> alive) {
  modules_.push_back({&module, module.is_training(), std::move(alive), tensors_of(module)});
  for (auto& child : module.children()) {
    const auto& of_child = *child;
    add(of_child, std::move(child));
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

std::optional<std::string> WatchedState::change_from(const torch::nn::Module& module,
                                                     size_t& next) const {
  const auto index = next++;
  if (index >= modules_.size() || modules_[index].module != &module)
    return "a " + module.name() + " was registered or put in another's place";
  if (module.is_training() != modules_[index].trains)
    return index == 0 ? "train() or eval() was called"
                      : "train() or eval() was called on a " + module.name();
  const auto tensors = tensors_of(module);
  const auto& then = modules_[index].tensors;
  if (!std::equal(tensors.begin(), tensors.end(), then.begin(), then.end(), is_same))
    return "a parameter or buffer of a " + module.name() + " was registered or replaced";
  for (const auto& child : module.children()) {
    if (auto change = change_from(*child, next)) return change;
  }
  return std::nullopt;
}

std::optional<std::string> WatchedState::change_of_ties() const {
  std::vector<const c10::StorageImpl*> memories;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto& [tensor, first] = std::tie(tensors_[i].tensor, tensors_[i].first_in_memory);
    if (first == i)
      memories.push_back(storage_of(tensor));
    else if (storage_of(tensor) != storage_of(tensors_[first].tensor))
      return tensors_[i].name + " shares no memory any more with " + tensors_[first].name;
  }
  std::sort(memories.begin(), memories.end());
  if (std::adjacent_find(memories.begin(), memories.end()) != memories.end())
    return "two tensors share memory that did not";
  return std::nullopt;
}

bool WatchedState::refresh_copies() const {
  return refresh_outdated(weights_, copies_);
}

std::optional<std::string> WatchedState::change() const {
  size_t next = 0;
  if (auto change = change_from(*modules_.front().module, next)) return change;
  if (next != modules_.size()) return "a module was taken away";
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
  return change_of_ties();
}

}  // namespace halfstep::detail
