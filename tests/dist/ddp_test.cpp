// DistributedDataParallel on real processes.
#include "halfstep/core/error.h"
#include "halfstep/dist/distributed_data_parallel.h"
#include "halfstep/graph/graph.h"
#include "halfstep/optim/gradient_dtype.h"

#include <torch/nn/modules.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include "tests/dist/join.h"
#include "tests/dist/two_layers.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"

namespace halfstep::testing {

using dist::DistributedDataParallel;
using dist::DistributedDataParallelOptions;
using dist::LaunchEnvironment;
using dist::ProcessGroup;

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
    for (const bool views : {false, true}) {
      auto net = net_of_seed(1);
      DistributedDataParallel ddp(
          net, group,
          DistributedDataParallelOptions().find_unused_parameters(true).gradient_as_bucket_view(
              views));
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

// As PyTorch's tests test_ignored_output and test_ignored_output_with_unused_parameters: nobody has
// to call backward.
TEST(DdpTest, OutputMayBeIgnored) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    for (const bool unused : {false, true}) {
      auto net = net_of_seed(1);
      DistributedDataParallel ddp(net, group,
                                  DistributedDataParallelOptions().find_unused_parameters(unused));
      for (int step = 0; step < 4; ++step) ddp.forward(examples(launch.rank, 2, step), !unused);
      for (int step = 0; step < 4; ++step) {
        net->zero_grad();
        ddp.forward(examples(launch.rank, 2, step), !unused).square().mean().backward();
        expect_close(gradients(net), gradients_of_all(2, step, !unused), 1e-5);
      }
    }
  });
}

// As PyTorch's test_save_load_checkpoint. torch::load gives parameters other memory, at which
// LibTorch drops their hooks.
TEST(DdpTest, GoesOnFromSavedWeights) {
  const RankFolder folder;
  const auto file = (folder.path() / "net.pt").string();
  expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    const auto train = [&](Net& net, DistributedDataParallel<NetImpl>& ddp, int from) {
      torch::optim::SGD optimizer(net->parameters(), 0.1);
      for (int step = from; step < from + 3; ++step) {
        optimizer.zero_grad();
        ddp.forward(examples(launch.rank, 2, step)).square().mean().backward();
        optimizer.step();
      }
    };
    auto whole = net_of_seed(1), parts = net_of_seed(1);
    DistributedDataParallel whole_ddp(whole, group), parts_ddp(parts, group);
    train(whole, whole_ddp, 0);
    train(whole, whole_ddp, 3);
    train(parts, parts_ddp, 0);
    if (group.is_first()) torch::save(parts, file);
    group.barrier();
    {
      const torch::NoGradGuard no_grad;
      for (auto& parameter : parts->parameters()) parameter.zero_();
    }
    torch::load(parts, file);
    train(parts, parts_ddp, 3);
    for (size_t i = 0; i < parts->parameters().size(); ++i)
      EXPECT_TRUE(torch::equal(parts->parameters()[i], whole->parameters()[i])) << i;
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

}  // namespace halfstep::testing
