// DistributedDataParallel and GradientReducer on real processes.
#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/dist/distributed_data_parallel.h"
#include "halfstep/graph/graph.h"
#include "halfstep/optim/gradient_dtype.h"

#include <torch/nn/functional.h>
#include <torch/nn/modules.h>
#include <torch/optim/sgd.h>

#include "tests/dist/join.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"

namespace halfstep::testing {

using dist::DistributedDataParallel;
using dist::DistributedDataParallelOptions;
using dist::GradientCompression;
using dist::GradientReducer;
using dist::LaunchEnvironment;
using dist::ProcessGroup;
namespace F = torch::nn::functional;

namespace {

/// Two layers, of which a forward may use one.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t width = 7)
      : first(register_module("first", torch::nn::Linear(5, width))),
        second(register_module("second", torch::nn::Linear(width, 3))),
        spare(register_module("spare", torch::nn::Linear(width, 3))) {}
  torch::Tensor forward(const torch::Tensor& x, bool use_spare = true) {
    const auto hidden = torch::tanh(first->forward(x));
    const auto y = second->forward(hidden);
    return use_spare ? y + spare->forward(hidden) : y;
  }
  torch::nn::Linear first, second, spare;
};
TORCH_MODULE(Net);

/// The same on every rank and in every run; `rank` < 0: all ranks' examples.
torch::Tensor examples(int rank, int ranks, int step = 0) {
  torch::manual_seed(100 + static_cast<uint64_t>(step));
  const auto all = torch::randn({4 * ranks, 5});
  return rank < 0 ? all : all.slice(0, 4 * rank, 4 * rank + 4);
}

Net net_of_seed(uint64_t seed) {
  torch::manual_seed(seed);
  return Net();
}

std::vector<torch::Tensor> gradients(const Net& net) {
  std::vector<torch::Tensor> result;
  for (const auto& parameter : net->parameters()) result.push_back(parameter.grad());
  return result;
}

/// What one process with all examples gets.
std::vector<torch::Tensor> gradients_of_all(int ranks, int step = 0, bool use_spare = true) {
  auto net = net_of_seed(1);
  net->forward(examples(-1, ranks, step), use_spare).square().mean().backward();
  return gradients(net);
}

void expect_close(const std::vector<torch::Tensor>& got, const std::vector<torch::Tensor>& wanted,
                  double tolerance) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].defined(), wanted[i].defined()) << "parameter " << i;
    if (!got[i].defined()) continue;
    EXPECT_TRUE(torch::allclose(got[i], wanted[i], tolerance, tolerance * 0.1))
        << "parameter " << i << ":\n"
        << got[i] << "\nwanted\n"
        << wanted[i];
  }
}

}  // namespace

TEST(DdpTest, GradientsAreThoseOfAllExamples) {
  expect_on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    DistributedDataParallel ddp(net, group);
    for (int step = 0; step < 3; ++step) {  // buckets are arranged anew after the first
      net->zero_grad();
      ddp.forward(examples(launch.rank, 3, step)).square().mean().backward();
      expect_close(gradients(net), gradients_of_all(3, step), 1e-5);
    }
    check_same_values(group, net->named_parameters(), "the weights");
  });
}

TEST(DdpTest, OneRankIsTheModuleItself) {
  ProcessGroup group{dist::ProcessGroupOptions()};
  auto net = net_of_seed(1);
  DistributedDataParallel ddp(net, group);
  ddp.forward(examples(-1, 2)).square().mean().backward();
  expect_close(gradients(net), gradients_of_all(2), 0);
  EXPECT_EQ(ddp.named_parameters().keys().front(), "module.first.weight");
}

TEST(DdpTest, GivesAllTheFirstRanksWeightsAndBuffers) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    const auto make = [](int seed) {
      torch::manual_seed(static_cast<uint64_t>(seed));
      torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::BatchNorm1d(3));
      net->forward(torch::randn({8, 4}));
      return net;
    };
    const auto net = make(launch.rank);
    DistributedDataParallel ddp(net, group);
    const auto first = make(0);
    for (size_t i = 0; i < first->parameters().size(); ++i)
      EXPECT_TRUE(torch::equal(net->parameters()[i], first->parameters()[i])) << i;
    for (size_t i = 0; i < first->buffers().size(); ++i)
      EXPECT_TRUE(torch::equal(net->buffers()[i], first->buffers()[i])) << i;
  });
}

TEST(DdpTest, BuffersAreTheFirstRanksInEachForward) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    torch::nn::Sequential net(torch::nn::BatchNorm1d(5));
    DistributedDataParallel ddp(net, group);
    const auto mean = [&] { return net->named_buffers()["0.running_mean"].clone(); };
    const auto step = [&](int rank) {
      const auto before = mean();
      ddp.forward(examples(rank, 2)).square().sum().backward();
      return mean() - before;
    };
    const auto own = step(launch.rank);
    EXPECT_FALSE(group.all_gather(c10::str(own))[0] == group.all_gather(c10::str(own))[1])
        << "each rank has seen its own examples";
    // The next forward starts from rank 0's: with the same examples all have the same after it.
    step(0);
    check_same_values(group, net->named_buffers(), "the buffers");

    // A forward without gradients exchanges nothing: one rank may make it alone.
    step(launch.rank);
    if (launch.rank == 1) {
      const torch::NoGradGuard no_grad;
      ddp.forward(examples(1, 2));
    }
    ddp.sync_buffers();
    check_same_values(group, net->named_buffers(), "the buffers");
  });
}

TEST(DdpTest, NoSyncAddsUpEachRanksOwn) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    DistributedDataParallel ddp(net, group);
    auto own = net_of_seed(1);
    const auto accumulate = [&](int step) {
      ddp.forward(examples(launch.rank, 2, step)).square().mean().backward();
    };
    {
      const auto no_sync = ddp.no_sync();
      accumulate(0);
      accumulate(1);
    }
    for (const int step : {0, 1})
      own->forward(examples(launch.rank, 2, step)).square().mean().backward();
    expect_close(gradients(net), gradients(own), 1e-6);
    EXPECT_ERROR(check_same_values(group, {{"grad", net->first->weight.grad()}}, "gradients"),
                 UsageError, "rank 1 differs from rank 0 in line 1: 'grad with checksum");
    // The forward tells, not the backward.
    torch::Tensor loss;
    {
      const auto no_sync = ddp.no_sync();
      loss = ddp.forward(examples(launch.rank, 2, 2)).square().mean();
    }
    loss.backward();
    EXPECT_ERROR(check_same_values(group, {{"grad", net->first->weight.grad()}}, "gradients"),
                 UsageError, "differs");

    accumulate(3);
    auto wanted = gradients_of_all(2, 0);
    for (const int step : {1, 2, 3}) {
      const auto more = gradients_of_all(2, step);
      for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = wanted[i] + more[i];
    }
    expect_close(gradients(net), wanted, 1e-5);
  });
}

TEST(DdpTest, UnusedParametersAreFoundWhereAskedFor) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    DistributedDataParallel ddp(net, group,
                                DistributedDataParallelOptions().find_unused_parameters(true));
    for (int step = 0; step < 3; ++step) {
      net->zero_grad();
      // In the middle step one rank uses it: the other adds nothing.
      const bool uses = step == 1 && launch.rank == 1;
      ddp.forward(examples(launch.rank, 2, step), uses).square().mean().backward();
      ddp.reducer().check_reduced();
      if (step != 1) {
        expect_close(gradients(net), gradients_of_all(2, step, false), 1e-5);
        continue;
      }
      auto alone = net_of_seed(1);
      alone->forward(examples(1, 2, step), true).square().mean().backward();
      EXPECT_TRUE(torch::allclose(net->spare->weight.grad(), alone->spare->weight.grad() / 2));
      check_same_values(group, {{"grad", net->spare->weight.grad()}}, "gradients");
    }
  });
}

TEST(DdpTest, UnusedParametersAreAnErrorOtherwise) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    DistributedDataParallel ddp(net, group);
    ddp.forward(examples(launch.rank, 2), false).square().mean().backward();
    constexpr const char* names = "'spare.weight', 'spare.bias'";
    EXPECT_ERROR(ddp.reducer().check_reduced(), UsageError, "[GradientReducer]",
                 "every parameter must take part in the loss on every rank", names,
                 "find_unused_parameters(true)");
    EXPECT_ERROR(ddp.forward(examples(launch.rank, 2)), UsageError, "these got no gradient", names);
  });
}

TEST(DdpTest, ModelsThatDifferAreNamed) {
  expect_on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    const auto wrap = [&](const Net& net) { DistributedDataParallel ddp(net, group); };
    EXPECT_ERROR(wrap(Net(launch.rank == 2 ? 8 : 7)), UsageError,
                 "[DistributedDataParallel] the parameters must be the same on all ranks, but rank "
                 "2 differs from rank 0 in line 1: 'first.weight [8, 5] float32' instead of "
                 "'first.weight [7, 5] float32'; build the same model on every rank");
    Net net;
    if (launch.rank == 1) net->second->to(torch::kBFloat16);
    EXPECT_ERROR(wrap(net), UsageError, "rank 1 differs",
                 "'second.weight [3, 7] bfloat16' instead of 'second.weight [3, 7] float32'");
    Net more;
    if (launch.rank == 1) more->register_module("more", torch::nn::Linear(1, 1));
    EXPECT_ERROR(wrap(more), UsageError, "'more.weight [1, 1] float32' instead of nothing");
    Net frozen;
    if (launch.rank == 1) frozen->spare->bias.requires_grad_(false);
    EXPECT_ERROR(wrap(frozen), UsageError, "'spare.bias [3] float32, frozen' instead of");
    group.barrier();
  });
}

TEST(DdpTest, WhatItCantDoIsRefused) {
  ProcessGroup group{dist::ProcessGroupOptions()};
  Net frozen;
  for (auto& parameter : frozen->parameters()) parameter.requires_grad_(false);
  EXPECT_ERROR(DistributedDataParallel(frozen, group), UsageError,
               "there must be a parameter that requires gradients");
  EXPECT_ERROR(DistributedDataParallel(std::shared_ptr<NetImpl>(), group), UsageError,
               "the module must be one, but is null");
  Net net;
  EXPECT_ERROR(
      DistributedDataParallel(net, group, DistributedDataParallelOptions().bucket_cap_mb(0)),
      UsageError, "bucket_cap_mb must be above 0");
  Net narrow;
  optim::set_gradient_dtype(narrow->second->parameters(), torch::kBFloat16);
  EXPECT_ERROR(DistributedDataParallel(narrow, group), UsageError,
               "those of 'second.weight' are bfloat16 (set_gradient_dtype) and it is float32",
               "take gradient_compression");
}

namespace {
/// A step through a DistributedDataParallel.
struct DdpGraph : Graph<torch::Tensor(torch::Tensor)> {
  DdpGraph(const Net& net, DistributedDataParallel<NetImpl>& ddp) : ddp_(ddp) {
    register_module("net", net);
  }
  torch::Tensor build(const torch::Tensor& x) override {
    const auto loss = ddp_.forward(x).square().mean();
    loss.backward();
    return loss;
  }
  DistributedDataParallel<NetImpl>& ddp_;
};
}  // namespace

TEST(DdpTest, GraphIsRefusedWithTheReason) {
  ProcessGroup group{dist::ProcessGroupOptions()};
  auto net = net_of_seed(1);
  DistributedDataParallel ddp(net, group);
  DdpGraph graph(net, ddp);
  EXPECT_ERROR(graph(examples(-1, 2)), UsageError, "[GradientReducer]",
               "gradients are exchanged by hooks of backward; train it without a Graph");
}

class CompressionTest : public ::testing::TestWithParam<GradientCompression> {};
INSTANTIATE_TEST_SUITE_P(In, CompressionTest,
                         ::testing::Values(GradientCompression::float16,
                                           GradientCompression::bfloat16));

TEST_P(CompressionTest, GradientsAreRoundedOnTheWay) {
  const auto compression = GetParam();
  expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    DistributedDataParallel ddp(net, group,
                                DistributedDataParallelOptions().gradient_compression(compression));
    const auto dtype =
        compression == GradientCompression::float16 ? torch::kHalf : torch::kBFloat16;
    const double tolerance = compression == GradientCompression::float16 ? 2e-3 : 2e-2;
    for (int step = 0; step < 2; ++step) {
      net->zero_grad();
      ddp.forward(examples(launch.rank, 2, step)).square().mean().backward();
      expect_close(gradients(net), gradients_of_all(2, step), tolerance);
      bool any_rounded = false;
      for (size_t i = 0; i < net->parameters().size(); ++i) {
        const auto gradient = net->parameters()[i].grad();
        ASSERT_EQ(gradient.scalar_type(), torch::kFloat);
        EXPECT_TRUE(torch::equal(gradient, gradient.to(dtype).to(torch::kFloat))) << i;
        any_rounded = any_rounded || !torch::equal(gradient, gradients_of_all(2, step)[i]);
      }
      EXPECT_TRUE(any_rounded) << "nothing was compressed";
      check_same_values(group, {{"grad", net->first->weight.grad()}}, "gradients");
    }
  });
}

// 0.x style: the forward is the module's own, and the reducer is told before backward.
TEST(GradientReducerTest, IsPreparedByHand) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    GradientReducer reducer(net->named_parameters(), group,
                            DistributedDataParallelOptions().find_unused_parameters(true));
    for (int step = 0; step < 3; ++step) {
      net->zero_grad();
      const auto loss = net->forward(examples(launch.rank, 2, step), false).square().mean();
      reducer.prepare_for_backward({loss});
      loss.backward();
      reducer.check_reduced();
      expect_close(gradients(net), gradients_of_all(2, step, false), 1e-5);
    }
    // Unprepared, a backward is each rank's own.
    net->zero_grad();
    net->forward(examples(launch.rank, 2)).square().mean().backward();
    auto own = net_of_seed(1);
    own->forward(examples(launch.rank, 2)).square().mean().backward();
    expect_close(gradients(net), gradients(own), 0);
  });
}

// Small buckets: several exchanges run beside one backward.
TEST(GradientReducerTest, ManyBucketsGiveTheSame) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    for (const bool views : {false, true}) {
      auto net = net_of_seed(1);
      DistributedDataParallel ddp(
          net, group,
          DistributedDataParallelOptions().bucket_cap_mb(1e-5).gradient_as_bucket_view(views));
      for (int step = 0; step < 3; ++step) {
        net->zero_grad();
        ddp.forward(examples(launch.rank, 2, step)).square().mean().backward();
        expect_close(gradients(net), gradients_of_all(2, step), 1e-5);
      }
    }
  });
}

TEST(GradientReducerTest, ExchangeThatBreaksOffInBackwardNamesTheRank) {
  const auto results = on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      auto net = net_of_seed(1);
      DistributedDataParallel ddp(net, group);
      for (int step = 0;; ++step) {
        if (step == 5 && launch.rank == 1)
          throw UsageError("[data] every image must be whole, but number 7 is not");
        ddp.forward(examples(launch.rank, 2, step)).square().mean().backward();
      }
    });
  });
  EXPECT_EQ(results[0].status, 1);
  EXPECT_LT(results[0].seconds, 15);
  EXPECT_THAT(
      results[0].output,
      ::testing::HasSubstr("[ProcessGroup] all ranks must go on together, but rank 1 failed: "
                           "[data] every image must be whole, but number 7 is not"));
}

}  // namespace halfstep::testing
