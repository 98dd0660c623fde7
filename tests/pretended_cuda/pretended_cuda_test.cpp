// What the pretended device must do as CUDA does, for tests on it to mean something.
#include "tests/pretended_cuda/pretended_cuda.h"

#include "halfstep/graph/capture/device_capture.h"

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include <torch/cuda.h>
#include <torch/nn.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace {

using halfstep::testing::pretended_launches;
using halfstep::testing::pretended_syncs;
using torch::Tensor;

const torch::TensorOptions on_cuda = torch::TensorOptions(c10::Device(c10::kCUDA, 0));

std::unique_ptr<halfstep::detail::DeviceCapture> make_capture() {
  return halfstep::detail::capture_maker(c10::kCUDA)(c10::Device(c10::kCUDA, 0));
}

TEST(PretendedCuda, HasTheBitsOfTheCpu) {
  torch::manual_seed(1);
  auto net =
      torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)),
                            torch::nn::BatchNorm2d(8), torch::nn::ReLU(), torch::nn::MaxPool2d(2),
                            torch::nn::Flatten(), torch::nn::Linear(8 * 4 * 4, 5));
  const auto x = torch::randn({4, 3, 8, 8}), y = torch::tensor({0, 1, 2, 3});
  std::vector<std::vector<Tensor>> results;
  for (const auto device : {torch::kCPU, torch::kCUDA}) {
    net->to(device);
    net->zero_grad();
    const auto loss = torch::cross_entropy_loss(net->forward(x.to(device)), y.to(device));
    loss.backward();
    EXPECT_EQ(loss.device().type(), device);
    results.push_back({loss.detach().cpu()});
    for (const auto& parameter : net->parameters())
      results.back().push_back(parameter.grad().cpu().clone());
  }
  ASSERT_EQ(results[0].size(), 7u);
  for (size_t i = 0; i < results[0].size(); ++i)
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
}

TEST(PretendedCuda, CountsWhereTheHostWaits) {
  const auto x = torch::ones({4}, on_cuda);
  const auto pinned = torch::empty({4}, torch::TensorOptions().pinned_memory(true));
  const auto waits = [](const std::function<void()>& run) {
    const auto before = pretended_syncs();
    run();
    return pretended_syncs() - before;
  };
  EXPECT_EQ(waits([&] { x.sum().item<float>(); }), 1);
  EXPECT_EQ(waits([&] { x.cpu(); }), 1);
  EXPECT_EQ(waits([&] { torch::nonzero(x); }), 1);
  EXPECT_EQ(waits([&] { torch::cuda::synchronize(); }), 1);
  EXPECT_EQ(waits([&] { pinned.copy_(x, /*non_blocking=*/true); }), 0);
  EXPECT_EQ(waits([&] { (x * 2 + 1).exp_().view({2, 2}).sum(); }), 0);
  EXPECT_ERROR(x + torch::ones({4}), c10::Error, "Expected all tensors to be on the same device");
}

TEST(PretendedCuda, ACaptureComputesNothingAndALaunchOnTheSameMemory) {
  const torch::NoGradGuard no_grad;
  auto x = torch::ones({4}, on_cuda), w = torch::full({4}, 2., on_cuda);
  auto on_host = torch::tensor(3.F);
  Tensor y, view;
  const auto graph = make_capture();
  graph->capture(
      [&] {
        y = x * on_host + w;
        w.mul_(2);
        view = y.view({2, 2})[1];
        view.add_(10);
      },
      {});
  EXPECT_TRUE(y.isnan().all().item<bool>());
  EXPECT_TRUE(w.eq(2).all().item<bool>());
  on_host.fill_(100);  // is captured as it was
  for (int i = 1; i <= 3; ++i) {
    const auto syncs = pretended_syncs(), launches = pretended_launches();
    graph->launch([&] { x.fill_(i); });
    EXPECT_EQ(pretended_syncs(), syncs);
    EXPECT_EQ(pretended_launches(), launches + 2);
    const double expected = 3 * i + std::pow(2, i);
    EXPECT_EQ(y[0].item<double>(), expected);
    EXPECT_EQ(view[1].item<double>(), expected + 10);
    EXPECT_EQ(w[0].item<double>(), std::pow(2, i + 1));
  }
}

TEST(PretendedCuda, ACaptureRefusesWhatWaits) {
  const torch::NoGradGuard no_grad;
  const auto x = torch::ones({4}, on_cuda), on_host = torch::ones({4});
  const std::vector<std::function<void()>> refused{
      [&] { x.sum().item<float>(); }, [&] { x.cpu(); },
      [&] { x.copy_(on_host); },      [&] { torch::cuda::synchronize(); },
      [&] { torch::nonzero(x); },     [&] { at::equal(x, x + 1); }};
  for (const auto& run : refused) {
    const auto graph = make_capture();
    EXPECT_ERROR(graph->capture(run, {}), c10::Error,
                 "operation not permitted when stream is capturing");
    EXPECT_EQ(graph->why_not_now(), "");
  }
  EXPECT_ERROR(make_capture()->capture(
                   [&] {
                     try {
                       x.cpu();
                     } catch (const c10::Error&) {  // as an op that hides it would
                     }
                   },
                   {}),
               c10::Error, "previous error during capture");
}

}  // namespace
