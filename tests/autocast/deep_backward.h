#pragma once
#include <functional>
#include <thread>
#include <utility>

#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace halfstep::testing {

/// Runs something inside a backward that is so deep that autograd has gone on on a thread of its
/// own, as it does after 60 backwards in one another.
struct DeepBackward : torch::autograd::Function<DeepBackward> {
  /// Calls `work` there, in the backward of a tensor on `device`; returns that thread.
  static std::thread::id run(std::function<void()> work, c10::Device device = c10::kCPU) {
    deepest = std::move(work);
    thread = {};
    backward_of(/*depth=*/70, device);
    return thread;
  }

  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x,
                               int64_t depth) {
    context->saved_data["depth"] = depth;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto depth = context->saved_data["depth"].toInt();
    if (depth > 0) {
      const torch::AutoGradMode grad_mode(true);
      backward_of(depth - 1, gradients[0].device());
    } else {
      thread = std::this_thread::get_id();
      deepest();
    }
    return {gradients[0], torch::Tensor()};
  }

 private:
  static void backward_of(int64_t depth, c10::Device device) {
    apply(torch::ones({1}, device).requires_grad_(), depth).sum().backward();
  }
  static inline std::function<void()> deepest;
  static inline std::thread::id thread;
};

}  // namespace halfstep::testing
