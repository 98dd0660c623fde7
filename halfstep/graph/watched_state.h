#pragma once
#include "halfstep/graph/program.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

namespace halfstep::detail {

/// What a recorded program takes for granted beyond its inputs: that modules train or evaluate as
/// then, and that the tensors it reads are the ones the modules use.
class WatchedState {
 public:
  /// Notes how things are, but for who holds on to the tensors.
  WatchedState(const Program& program, const torch::nn::Module& root);

  /// Notes how many hold on to each tensor: call it whenever the graph itself took or dropped
  /// references, and nothing of a recorded step is alive any more.
  void count_uses();

  /// What has changed since, as a clause; none where nothing has. No strings are made unless
  /// something has.
  std::optional<std::string> change() const;

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
  };
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> modules_;
  const torch::nn::Module* root_;
  bool root_trains_;
  std::vector<Watched> tensors_;
};

}  // namespace halfstep::detail
