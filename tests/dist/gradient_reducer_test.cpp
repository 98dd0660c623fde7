// GradientReducer and the compression of gradients on real processes.
#include "halfstep/core/error.h"
#include "halfstep/dist/distributed_data_parallel.h"

#include "tests/dist/join.h"
#include "tests/dist/two_layers.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"

namespace halfstep::testing {

using dist::DistributedDataParallel;
using dist::DistributedDataParallelOptions;
using dist::GradientCompression;
using dist::GradientReducer;
using dist::LaunchEnvironment;
using dist::ProcessGroup;

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

// As PyTorch's ReducerTest with a model in float32 and float64: a bucket for each dtype.
TEST(GradientReducerTest, TakesSeveralDtypes) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    net->second->to(torch::kDouble);
    GradientReducer both(net->named_parameters(), group,
                         DistributedDataParallelOptions().find_unused_parameters(true));
    const auto run = [&](Net& each, const torch::Tensor& x) {
      return each->second->forward(torch::tanh(each->first->forward(x)).to(torch::kDouble))
          .square()
          .mean();
    };
    const auto loss = run(net, examples(launch.rank, 2));
    both.prepare_for_backward({loss});
    loss.backward();
    auto alone = net_of_seed(1);
    alone->second->to(torch::kDouble);
    run(alone, examples(-1, 2)).backward();
    EXPECT_EQ(net->second->weight.grad().scalar_type(), torch::kDouble);
    expect_close(gradients(net), gradients(alone), 1e-5);
  });
}

TEST(GradientReducerTest, LoadedWeightsAreHookedAgain) {
  expect_on_ranks(2, [](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    auto net = net_of_seed(1);
    GradientReducer reducer(net->named_parameters(), group);
    const auto load = [&] {
      const torch::NoGradGuard no_grad;
      for (auto& parameter : net->parameters()) parameter.set_(parameter.detach().clone());
    };
    const auto loss = [&] { return net->forward(examples(launch.rank, 2)).square().mean(); };
    load();
    auto unprepared = loss();
    EXPECT_ERROR(reducer.prepare_for_backward({unprepared}), UsageError, "[GradientReducer]",
                 "LibTorch has dropped the hooks on them; call keep_hooks() before that forward");
    unprepared.reset();
    load();
    reducer.keep_hooks();
    const auto prepared = loss();
    reducer.prepare_for_backward({prepared});
    prepared.backward();
    expect_close(gradients(net), gradients_of_all(2), 1e-5);

    net->zero_grad();
    net->spare->to(torch::kDouble);
    EXPECT_ERROR(reducer.keep_hooks(), UsageError,
                 "parameters must stay what they were, but 'spare.weight' is float64 [3, 7] on cpu "
                 "now");
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
