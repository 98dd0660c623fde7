#pragma once
#include "halfstep/graph/graph_base.h"
#include "halfstep/graph/structure.h"

#include <any>
#include <string>
#include <tuple>
#include <vector>

namespace halfstep {

template <class Signature = std::vector<at::Tensor>(std::vector<at::Tensor>)>
class Graph;

/// A training step, or any other computation, that is recorded once and replayed: OneFlow's
/// nn.Graph for LibTorch. The first calls run `build` as it stands and write down its operations
/// below autograd; later ones run these, without autograd, autocast and the code around them, with
/// the same bits. Loss scaling, the optimizers' steps, zeroing and schedules are the graph's.
///
///   struct Train : halfstep::Graph<torch::Tensor(torch::Tensor, torch::Tensor)> {
///     Train(Net net, torch::optim::Optimizer& optimizer) : net_(register_module("net", net)) {
///       config().enable_amp();
///       add_optimizer(optimizer);
///     }
///     torch::Tensor build(const torch::Tensor& x, const torch::Tensor& y) override {
///       const auto loss = F::cross_entropy(net_->forward(x), y);
///       loss.backward();
///       return loss;
///     }
///     Net net_;
///   };
///   Train train(net, adam);
///   for (auto& batch : *loader) losses.push_back(train(batch.data, batch.target));
///
/// Inputs and outputs may nest: vectors, arrays, pairs, tuples, optionals and maps of tensors.
/// Outputs are detached. A graph without optimizers and backward() is for evaluation and shares the
/// modules' weights with others.
///
/// Two steps are recorded and compared before one is replayed (a third where the first set
/// something up). New shapes, dtypes, strides or nestings, train() and eval(), freezing, parameters
/// replaced by others or moved, another scaler and config() changes are recorded anew;
/// last_reason() says why. What modules hold is read as it is: loaded, averaged or otherwise
/// changed weights, running statistics, learning rates and the loss scale need no new recording.
/// Random operations draw from the same generators as in eager code, so they are random and
/// reproducible.
///
/// Gradients: a call adds its own to those that are there, as backward() does; with optimizers they
/// are zeroed (undefined) after their step. Each tensor a replay writes gets a new version.
///
/// On a GPU replays are launched as one CUDA graph, after two that warm up: docs/graph.md says what
/// can't be, and why_not_captured() why the last one was not. The results are the same.
///
/// What a recording can't follow is a UsageError when it is recorded: values read on the host
/// (item(), is_nonzero, equal), tensors whose size depends on values, tensors that are neither
/// inputs nor held by modules nor named with add_tensor(), host numbers that change from call to
/// call, tensors made from host memory. Nothing tells of writes through raw pointers, of a branch
/// on the host that went the same way in all recorded steps, of hooks' work on the host, and of a
/// tensor that build closes over in the place of another: config().check_replays() finds those.
/// An exception that build throws passes through; nothing is stepped then and gradients are as they
/// were.
///
/// Not for use by two threads at once. Syncs as its scaler and optimizers do; a replay by itself
/// does not.
template <class Outputs, class... Inputs>
class Graph<Outputs(Inputs...)> : public GraphBase {
 public:
  /// The step to record.
  virtual Outputs build(const Inputs&... inputs) = 0;

  /// Records or replays one step, and steps what was added by add_optimizer(). Throws UsageError
  /// for what a recording can't follow.
  Outputs operator()(const Inputs&... inputs) {
    std::vector<at::Tensor> flat;
    std::vector<size_t> structure;
    (detail::append_tensors(inputs, flat), ...);
    (detail::append_structure(inputs, structure), ...);
    const auto run = [&](const std::vector<at::Tensor>& tensors) {
      [[maybe_unused]] size_t next = 0;  // where there are inputs
      // Braces: first to last.
      const std::tuple<Inputs...> nested{detail::with_tensors(inputs, tensors, next)...};
      const auto made = std::apply([this](const auto&... each) { return build(each...); }, nested);
      std::vector<at::Tensor> outputs;
      detail::append_tensors(made, outputs);
      auto empty = [](const at::Tensor&) { return at::Tensor(); };
      shape_ = detail::map_tensors(empty, made);
      return outputs;
    };
    const auto outputs = call(flat, structure, run, shape_);
    size_t next = 0;
    return detail::with_tensors(std::any_cast<const Outputs&>(shape_), outputs, next);
  }

 protected:
  /// `name` is what name() gives.
  explicit Graph(std::string name = "Graph") : GraphBase(std::move(name)) {}

 private:
  static_assert(detail::TensorNest<Outputs> && (detail::TensorNest<Inputs> && ...),
                "a graph takes and returns tensors and containers of them");
  std::any shape_;
};

}  // namespace halfstep
