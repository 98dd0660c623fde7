// Mixed precision on several ranks: autocast, scalers that skip together, wrappers, two optimizers,
// and the same mathematics as one process.
#include "halfstep/core/error.h"
#include "halfstep/dist/distributed_data_parallel.h"
#include "halfstep/optim/adam.h"
#include "halfstep/optim_wrapper.h"
#include "halfstep/scaling/grad_scaler.h"

#include <fstream>
#include <limits>

#include <torch/nn/functional.h>
#include <torch/nn/modules.h>
#include <torch/optim/sgd.h>

#include "tests/dist/join.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"

namespace halfstep::testing {

using dist::DistributedDataParallel;
using dist::DistributedDataParallelOptions;
using dist::GradientReducer;
using dist::LaunchEnvironment;
using dist::ProcessGroup;
namespace F = torch::nn::functional;

namespace {

constexpr int64_t kClasses = 10;

torch::nn::Sequential make_net() {
  torch::manual_seed(7);
  return torch::nn::Sequential(torch::nn::Linear(32, 64), torch::nn::ReLU(),
                               torch::nn::Linear(64, 64), torch::nn::ReLU(),
                               torch::nn::Linear(64, kClasses));
}

struct Examples {
  torch::Tensor data, target;
};

/// Noisy points around ten centres: the same for every caller.
Examples blobs(int64_t count, uint64_t seed) {
  torch::manual_seed(1);
  const auto centres = torch::randn({kClasses, 32}) * 0.7;
  torch::manual_seed(1000 + seed);
  const auto target = torch::randint(kClasses, {count}, torch::kLong);
  return {centres.index({target}) + torch::randn({count, 32}), target};
}

Examples part_of(const Examples& all, int rank, int ranks) {
  const auto count = all.data.size(0) / ranks;
  return {all.data.slice(0, rank * count, (rank + 1) * count),
          all.target.slice(0, rank * count, (rank + 1) * count)};
}

double accuracy(torch::nn::Sequential& net) {
  const torch::NoGradGuard no_grad;
  const auto test = blobs(2000, 99);
  return (net->forward(test.data).argmax(1) == test.target)
      .to(torch::kDouble)
      .mean()
      .item<double>();
}

torch::Tensor weights_of(const torch::nn::Module& net) {
  std::vector<torch::Tensor> all;
  for (const auto& each : net.parameters()) all.push_back(each.detach().flatten());
  return torch::cat(all).clone();
}

constexpr int kSteps = 200;

/// 200 steps of batches of 64 on `ranks` ranks; the loss over all examples in each step.
std::vector<double> train_float32(torch::nn::Sequential& net, ProcessGroup& group) {
  DistributedDataParallel ddp(net, group);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  std::vector<double> losses;
  for (int step = 0; step < kSteps; ++step) {
    const auto own =
        part_of(blobs(64, static_cast<uint64_t>(step)), group.rank(), group.world_size());
    optimizer.zero_grad();
    const auto loss = F::cross_entropy(ddp.forward(own.data), own.target);
    loss.backward();
    optimizer.step();
    auto mean = loss.detach().clone();
    group.all_reduce_(mean, dist::Reduce::mean);
    losses.push_back(mean.item<double>());
  }
  return losses;
}

/// The same by an AmpOptimWrapper; returns what share of the steps was taken.
void train_amp(torch::nn::Sequential& net, ProcessGroup& group, c10::ScalarType dtype) {
  DistributedDataParallel ddp(net, group);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  AmpOptimWrapper wrapper(optimizer,
                          AmpOptimWrapperOptions().dtype(dtype).loss_scale(
                              GradScalerOptions(c10::kCPU).process_group(group.handle())));
  for (int step = 0; step < kSteps; ++step) {
    const auto own =
        part_of(blobs(64, static_cast<uint64_t>(step)), group.rank(), group.world_size());
    torch::Tensor loss;
    {
      const auto context = wrapper.optim_context(ddp);
      const auto output = ddp.forward(own.data);
      ASSERT_EQ(output.scalar_type(), dtype);
      loss = F::cross_entropy(output, own.target);
    }
    wrapper.update_params(loss);
  }
}

}  // namespace

TEST(DdpTrainingTest, FourRanksFollowOneProcess) {
  const RankFolder folder;
  const auto file = folder.path() / "losses";
  expect_on_ranks(4, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = make_net();
    const auto losses = train_float32(net, group);
    dist::check_same_values(group, net->named_parameters(), "the weights");
    if (launch.rank != 0) return;
    std::ofstream out(file);
    out.precision(17);
    for (const auto loss : losses) out << loss << "\n";
    out << accuracy(net) << "\n";
  });
  std::ifstream in(file);
  std::vector<double> four;
  for (double value = 0; in >> value;) four.push_back(value);
  ASSERT_EQ(four.size(), kSteps + 1u);
  ProcessGroup alone{dist::ProcessGroupOptions()};
  auto net = make_net();
  const auto one = train_float32(net, alone);
  EXPECT_GT(one.front(), 2);
  EXPECT_LT(one.back(), 0.5) << "it has to learn for the comparison to mean something";
  bool any_differs = false;
  for (size_t step = 0; step < one.size(); ++step) {
    EXPECT_NEAR(four[step], one[step], 2e-4) << "step " << step;
    any_differs = any_differs || four[step] != one[step];
  }
  EXPECT_TRUE(any_differs) << "sums of parts round differently: did four ranks take part?";
  EXPECT_NEAR(four.back(), accuracy(net), 0.001);
}

TEST(DdpTrainingTest, MixedPrecisionReachesTheSameAccuracy) {
  ProcessGroup alone{dist::ProcessGroupOptions()};
  auto plain = make_net();
  if (!is_rank_process()) train_float32(plain, alone);
  const double wanted = accuracy(plain);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    ::setenv("HALFSTEP_TEST_WANTED", std::to_string(wanted).c_str(), 0);
    expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
      ProcessGroup group(quick(launch));
      auto net = make_net();
      const auto before = weights_of(*net);
      train_amp(net, group, dtype);
      dist::check_same_values(group, net->named_parameters(), "the weights");
      EXPECT_FALSE(torch::equal(before, weights_of(*net)));
      EXPECT_GT(accuracy(net), 0.8);
      EXPECT_NEAR(accuracy(net), std::stod(std::getenv("HALFSTEP_TEST_WANTED")), 0.02);
    });
  }
}

// An inf on one rank only, put where the exchange can't spread it.
TEST(DdpScalerTest, OverflowOfOneRankSkipsTheStepOfAll) {
  expect_on_ranks(3, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = make_net();
    DistributedDataParallel ddp(net, group);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    GradScaler scaler(GradScalerOptions(c10::kCPU).init_scale(1024).process_group(group.handle()));
    for (int step = 0; step < 4; ++step) {
      const auto own = part_of(blobs(30, static_cast<uint64_t>(step)), launch.rank, 3);
      const auto before = weights_of(*net);
      optimizer.zero_grad();
      scaler.scale(F::cross_entropy(ddp.forward(own.data), own.target)).backward();
      if (step == 2 && launch.rank == 1)
        net->parameters()[0].mutable_grad()[0][0] = std::numeric_limits<float>::infinity();
      const auto result = scaler.step(optimizer);
      scaler.update();
      EXPECT_EQ(result.stepped(), step != 2) << "step " << step << ", rank " << launch.rank;
      EXPECT_EQ(torch::equal(before, weights_of(*net)), step == 2);
    }
    EXPECT_EQ(scaler.get_scale(), 512);
    dist::check_same_values(group, net->named_parameters(), "the weights");
  });
}

// And one that the exchange of gradients itself spreads: scaled losses past float16's range.
TEST(DdpScalerTest, OverflowInBackwardSkipsTheStepOfAll) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = make_net();
    DistributedDataParallel ddp(net, group);
    optim::Adam optimizer(net->parameters(), optim::AdamOptions(1e-3));
    GradScaler scaler(GradScalerOptions(c10::kCPU).process_group(group.handle()));
    const auto own = part_of(blobs(8, 0), launch.rank, 2);
    const auto before = weights_of(*net);
    auto loss = F::cross_entropy(ddp.forward(own.data), own.target);
    if (launch.rank == 1) loss = loss * std::numeric_limits<float>::max();
    scaler.scale(loss).backward();
    EXPECT_FALSE(net->parameters()[0].grad().isfinite().all().item<bool>());
    EXPECT_FALSE(scaler.step(optimizer).stepped());
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 32768);
    EXPECT_TRUE(torch::equal(before, weights_of(*net)));
  });
}

// The context of a wrapper leaves the exchange out of iterations that only accumulate.
TEST(DdpWrapperTest, AccumulationExchangesOnce) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = make_net();
    DistributedDataParallel ddp(net, group);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    OptimWrapper wrapper(optimizer, OptimWrapperOptions().accumulative_counts(3));
    auto alone = make_net();
    torch::optim::SGD alone_optimizer(alone->parameters(), 0.1);
    OptimWrapper alone_wrapper(alone_optimizer, OptimWrapperOptions().accumulative_counts(3));
    for (int step = 0; step < 6; ++step) {
      const auto all = blobs(16, static_cast<uint64_t>(step));
      const auto own = part_of(all, launch.rank, 2);
      torch::Tensor loss;
      {
        const auto context = wrapper.optim_context(ddp);
        loss = F::cross_entropy(ddp.forward(own.data), own.target);
      }
      wrapper.update_params(loss);
      const auto gradient = net->parameters()[0].grad();
      if (step % 3 != 2) {
        EXPECT_ERROR(dist::check_same_values(group, {{"grad", gradient}}, "gradients"), UsageError,
                     "differs");
      }
      alone_wrapper.update_params(F::cross_entropy(alone->forward(all.data), all.target));
    }
    dist::check_same_values(group, net->named_parameters(), "the weights");
    EXPECT_TRUE(torch::allclose(weights_of(*net), weights_of(*alone), 1e-5, 1e-6));
  });
}

// Two modules, an optimizer and a reducer each, as a GAN has them.
TEST(DdpWrapperTest, TwoOptimizersExchangeForThemselves) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    torch::manual_seed(3);
    torch::nn::Linear generator(6, 4), discriminator(4, 1);
    DistributedDataParallel gen(generator, group), disc(discriminator, group);
    auto gen_optimizer = std::make_shared<torch::optim::SGD>(generator->parameters(), 0.1);
    auto disc_optimizer = std::make_shared<torch::optim::SGD>(discriminator->parameters(), 0.1);
    const auto options =
        AmpOptimWrapperOptions()
            .dtype(torch::kBFloat16)
            .loss_scale(GradScalerOptions(c10::kCPU).process_group(group.handle()));
    OptimWrapperDict wrappers(
        {{"generator", std::make_shared<AmpOptimWrapper>(gen_optimizer, options)},
         {"discriminator", std::make_shared<AmpOptimWrapper>(disc_optimizer, options)}});
    for (int step = 0; step < 5; ++step) {
      torch::manual_seed(static_cast<uint64_t>(10 * step + launch.rank));
      const auto noise = torch::randn({8, 6});
      torch::Tensor loss;
      {
        const auto context = wrappers["discriminator"].optim_context(disc);
        torch::Tensor fake;
        {
          const torch::NoGradGuard no_grad;
          fake = gen.forward(noise);
        }
        loss = disc.forward(fake).square().mean();
      }
      wrappers["discriminator"].update_params(loss);
      for (auto& each : discriminator->parameters()) each.requires_grad_(false);
      {
        const auto context = wrappers["generator"].optim_context(gen);
        // The module, not its DDP: nothing of it is to be exchanged.
        loss = -discriminator->forward(gen.forward(noise)).mean();
      }
      wrappers["generator"].update_params(loss);
      for (auto& each : discriminator->parameters()) each.requires_grad_(true);
    }
    dist::check_same_values(group, generator->named_parameters(), "the generator");
    dist::check_same_values(group, discriminator->named_parameters(), "the discriminator");
  });
}

}  // namespace halfstep::testing
