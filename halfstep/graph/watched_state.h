#pragma once
#include "halfstep/graph/program.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::detail {

/// What a recorded program takes for granted beyond its inputs: that modules train or evaluate as
/// then and are the same ones, and that the tensors it reads are the ones the modules use.
class WatchedState {
 public:
  /// Notes how things are, but for who holds on to the tensors. `weights`: those that may have
  /// 16-bit copies.
  WatchedState(const Program& program, const torch::nn::Module& root,
               const std::vector<at::Tensor>& weights);

  /// Notes how many hold on to each tensor: call it whenever the graph itself took or dropped
  /// references, and nothing of a recorded step is alive any more.
  void count_uses();

  /// What has changed since, as a clause; none where nothing has. No strings are made unless
  /// something has.
  std::optional<std::string> change() const;

  /// Writes the 16-bit copies of weights that the program reads where somebody changed the weight
  /// since, as autocast would cast it anew. False where a copy is kept no more.
  bool refresh_copies() const;

  /// Whether a tensor of the program lies in this memory.
  bool holds(const c10::StorageImpl* storage) const;

 private:
  struct Watched {
    at::Tensor tensor;
    Geometry geometry;
    bool requires_grad;
    /// Assigning another tensor to a module's member takes one reference from this one, and
    /// nothing else tells of it. Other code may drop references too: then a recording is made in
    /// vain.
    size_t uses;
    std::string name;
    size_t first_in_memory;  // which tensor was the first one that lay in its memory
  };
  struct WatchedModule {
    const torch::nn::Module* module;
    bool trains;
    std::shared_ptr<torch::nn::Module> alive;  // its address is nobody else's; not of the root
    std::vector<at::Tensor> tensors;           // its own parameters and buffers
  };

  void add(const torch::nn::Module& module, std::shared_ptr<torch::nn::Module> alive);
  std::optional<std::string> change_from(const torch::nn::Module& module, size_t& next) const;
  std::optional<std::string> change_of_ties() const;

  std::vector<WatchedModule> modules_;  // each before its children
  std::vector<Watched> tensors_;
  std::vector<at::Tensor> weights_, copies_;
};

}  // namespace halfstep::detail
