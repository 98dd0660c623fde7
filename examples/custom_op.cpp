// An op of one's own under autocast: one line says that it runs in 16 bits, and a custom autograd
// function beside it keeps its softmax in float32, forward and backward.
//
// usage: custom_op
#include "halfstep/autocast.h"

#include <cstdio>

#include <torch/library.h>
#include <torch/torch.h>

// x W relu(x V): two products and a gate, as one op.
torch::Tensor gated_linear(const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& v) {
  return x.mm(w) * torch::relu(x.mm(v));
}
TORCH_LIBRARY(mylib, library) {
  library.def("gated_linear(Tensor x, Tensor w, Tensor v) -> Tensor", &gated_linear);
}

using torch::autograd::AutogradContext, torch::autograd::variable_list;

// Cross entropy with a backward by hand.
struct CrossEntropy : halfstep::CustomFunction<CrossEntropy> {
  static constexpr auto cast_inputs = torch::kFloat;

  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& logits,
                               const torch::Tensor& target) {
    context->save_for_backward({logits, target});
    return torch::nll_loss(torch::log_softmax(logits, 1), target);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto probabilities = torch::softmax(saved[0], 1);
    const auto correct = torch::one_hot(saved[1], saved[0].size(1));
    return {grads[0] * (probabilities - correct) / saved[0].size(0), {}};
  }
};

int main() {
  torch::manual_seed(0);
  const torch::Device device(torch::cuda::is_available() ? torch::kCUDA : torch::kCPU);
  halfstep::register_autocast("mylib::gated_linear", halfstep::CastRule::lower_precision,
                              device.type());
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("mylib::gated_linear", "")
                      .typed<decltype(gated_linear)>();

  // Points inside and outside of a circle.
  const auto points = torch::rand({512, 2}, device) * 2 - 1;
  const auto inside = (points.square().sum(1) < 0.6).to(torch::kLong);
  const auto ones = torch::ones({512, 1}, device);
  const auto inputs = torch::cat({points, ones}, 1);
  const auto weight = [&](int64_t rows, int64_t columns) {
    return torch::randn({rows, columns}, device).requires_grad_();
  };
  const auto w = weight(3, 64), v = weight(3, 64);
  const auto head = (torch::randn({64, 2}, device) * 0.1).requires_grad_();
  torch::optim::Adam optimizer({w, v, head}, 1e-2);

  torch::Tensor hidden;
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const halfstep::Autocast autocast(
          halfstep::AutocastOptions(device.type()).dtype(torch::kBFloat16));
      hidden = op.call(inputs, w, v);
      loss = CrossEntropy::apply(hidden.mm(head), inside);
    }
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (step == 0) first = last;
  }
  std::printf("gated_linear ran in %s\n", torch::toString(hidden.scalar_type()));
  std::printf("loss %.4f -> %.4f\n", first, last);
}
