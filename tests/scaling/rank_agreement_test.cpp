// Several ranks, each a thread with its own scaler: all skip together, and their scales stay equal.
#include "halfstep/core/error.h"
#include "halfstep/scaling/dialects.h"
#include "halfstep/scaling/grad_scaler.h"

#include <algorithm>
#include <atomic>
#include <random>

#include <torch/optim/sgd.h>
#include <torch/types.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/scaling/thread_ranks.h"
#include "tests/support/errors.h"
#include "tests/support/special_values.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {

using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
constexpr int kRankSteps = 300;

/// What one rank saw.
struct History {
  std::vector<double> scales;
  std::vector<bool> stepped;
  at::Tensor parameter;
  OverflowReport report;

  bool operator==(const History& other) const {
    return scales == other.scales && stepped == other.stepped &&
           torch::equal(parameter, other.parameter);
  }
};

/// Does `rank` overflow in `step`? Rarely, and rarely two at once.
bool overflows(int rank, int step) {
  std::mt19937 random(static_cast<unsigned>(1000 * rank + step));
  random.discard(3);
  return random() % 25 == 0;
}

bool any_overflows(int ranks, int step) {
  for (int rank = 0; rank < ranks; ++rank)
    if (overflows(rank, step)) return true;
  return false;
}

/// A rank's training: gradients are 1 on all ranks, as after DDP's average, but for its own inf.
History train(GradScalerOptions options, bool fused, const std::function<bool(int)>& overflow) {
  History history;
  auto parameter = torch::zeros({3}, torch::requires_grad());
  FusedForTests own({parameter}, FusedForTests::Kind::sgd, /*lr=*/0.5);
  torch::optim::SGD sgd({parameter}, 0.5);
  torch::optim::Optimizer& optimizer = fused ? static_cast<torch::optim::Optimizer&>(own) : sgd;
  GradScaler scaler(options);
  for (int step = 0; step < kRankSteps; ++step) {
    const auto scale = scaler.scale(torch::ones({}));
    parameter.mutable_grad() = scale.expand({3}).clone();
    if (overflow(step)) parameter.mutable_grad()[1] = kInf;
    const auto result = scaler.step(optimizer);
    scaler.update();
    history.stepped.push_back(result.stepped());
    history.scales.push_back(scaler.get_scale());
  }
  history.parameter = parameter.detach().clone();
  history.report = scaler.overflows();
  return history;
}

GradScalerOptions cpu(GradScalerOptions options) {
  return options.device_type(c10::kCPU).growth_interval(7);
}

}  // namespace

class Ranks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(On, Ranks, ::testing::Values(2, 4));

TEST_P(Ranks, SkipTogetherAsOneRankWithAllOverflows) {
  const int count = GetParam();
  for (const auto& dialect : {dialects::torch(), dialects::megatron(), dialects::mmcv_static()}) {
    for (const bool fused : {false, true}) {
      SCOPED_TRACE(fused ? "fused" : "ordinary");
      const auto alone =
          train(cpu(dialect), fused, [&](int step) { return any_overflows(count, step); });
      ASSERT_GT(std::count(alone.stepped.begin(), alone.stepped.end(), false), 10);
      std::vector<History> ranks(static_cast<std::size_t>(count));
      run_ranks(count, [&](int rank, const Group& group) {
        ranks[static_cast<std::size_t>(rank)] =
            train(cpu(dialect).process_group(group), fused,
                  [&](int step) { return overflows(rank, step); });
      });
      EXPECT_EQ(allreduces_of_last_run(), count * kRankSteps) << "one for each step and rank";
      for (const auto& history : ranks) EXPECT_TRUE(history == alone);
    }
  }
}

// What the group is for: without one, ranks skip on their own and drift apart.
TEST_P(Ranks, DriftApartWithoutAGroup) {
  std::vector<History> ranks;
  for (int rank = 0; rank < GetParam(); ++rank)
    ranks.push_back(
        train(cpu(dialects::torch()), false, [&](int step) { return overflows(rank, step); }));
  EXPECT_NE(ranks[0].scales, ranks[1].scales);
  EXPECT_FALSE(torch::equal(ranks[0].parameter, ranks[1].parameter));
}

TEST_P(Ranks, ReportsTellOwnOverflowsFromOthers) {
  const int count = GetParam();
  std::vector<History> ranks(static_cast<std::size_t>(count));
  run_ranks(count, [&](int rank, const Group& group) {
    ranks[static_cast<std::size_t>(rank)] =
        train(cpu(dialects::torch()).process_group(group).report_size(200), false,
              [&](int step) { return step == 10 + rank; });
  });
  for (int rank = 0; rank < count; ++rank) {
    const auto& report = ranks[static_cast<std::size_t>(rank)].report;
    EXPECT_EQ(report.overflows, count);
    EXPECT_EQ(report.skipped_steps, count);
    ASSERT_EQ(report.last.size(), static_cast<std::size_t>(count));
    for (int place = 0; place < count; ++place) {
      const auto& skipped = report.last[static_cast<std::size_t>(place)];
      EXPECT_EQ(skipped.update, 11 + place);
      EXPECT_EQ(skipped.sources.size(), place == rank ? 1u : 0u);
    }
    EXPECT_THAT(report.text(), ::testing::HasSubstr("found by another rank"));
  }
}

// Two optimizers, of which the second has gradients on rank 0 only; each skips for itself.
TEST_P(Ranks, RankWithoutGradientsJoins) {
  const int count = GetParam();
  for (const bool unscale_first : {false, true}) {
    for (const bool fused : {false, true}) {
      SCOPED_TRACE(c10::str(unscale_first, fused));
      std::vector<std::vector<bool>> first(static_cast<std::size_t>(count)), second = first;
      std::vector<std::vector<double>> scales(static_cast<std::size_t>(count));
      run_ranks(count, [&](int rank, const Group& group) {
        auto shared = torch::zeros({2}, torch::requires_grad());
        auto sometimes = torch::zeros({2}, torch::requires_grad());
        std::unique_ptr<torch::optim::Optimizer> one, two;
        if (fused) {
          one = std::make_unique<FusedForTests>(std::vector<at::Tensor>{shared},
                                                FusedForTests::Kind::sgd, 0.5);
          two = std::make_unique<FusedForTests>(std::vector<at::Tensor>{sometimes},
                                                FusedForTests::Kind::sgd, 0.5);
        } else {
          one = std::make_unique<torch::optim::SGD>(std::vector<at::Tensor>{shared}, 0.5);
          two = std::make_unique<torch::optim::SGD>(std::vector<at::Tensor>{sometimes}, 0.5);
        }
        GradScaler scaler(cpu(dialects::torch()).process_group(group));
        for (int step = 0; step < 40; ++step) {
          scaler.scale(torch::ones({}));
          shared.mutable_grad() = torch::ones({2});
          if (step % 5 == 0 && rank == 1) shared.mutable_grad()[0] = kInf;
          sometimes.mutable_grad() = rank == 0 ? torch::ones({2}) : at::Tensor();
          if (step % 7 == 0 && rank == 0) sometimes.mutable_grad()[0] = kInf;
          if (unscale_first) {
            scaler.unscale_(*one);
            scaler.unscale_(*two);
          }
          const auto result_one = scaler.step(*one);
          const auto result_two = scaler.step(*two);
          scaler.update();
          const auto place = static_cast<std::size_t>(rank);
          first[place].push_back(result_one.stepped());
          second[place].push_back(result_two.stepped());
          scales[place].push_back(scaler.get_scale());
        }
      });
      for (int rank = 0; rank < count; ++rank) {
        const auto place = static_cast<std::size_t>(rank);
        for (int step = 0; step < 40; ++step) {
          const auto at = static_cast<std::size_t>(step);
          ASSERT_EQ(first[place][at], step % 5 != 0) << rank << ", " << step;
          ASSERT_EQ(second[place][at], step % 7 != 0) << rank << ", " << step;
        }
        EXPECT_EQ(scales[place], scales[0]);
      }
    }
  }
}

TEST_P(Ranks, EndTogetherAtTheMinimumScale) {
  const int count = GetParam();
  std::vector<int> ended(static_cast<std::size_t>(count), -1);
  std::vector<std::string> errors(static_cast<std::size_t>(count));
  run_ranks(count, [&](int rank, const Group& group) {
    auto parameter = torch::zeros({2}, torch::requires_grad());
    torch::optim::SGD optimizer({parameter}, 0.5);
    GradScaler scaler(
        dialects::deepspeed().device_type(c10::kCPU).init_scale(4).process_group(group));
    const auto place = static_cast<std::size_t>(rank);
    for (int step = 0; step < 20 && ended[place] < 0; ++step) {
      scaler.scale(torch::ones({}));
      parameter.mutable_grad() = torch::full({2}, rank == 0 ? kInf : 1.0f);
      scaler.step(optimizer);
      try {
        scaler.update();
      } catch (const UsageError& error) {
        ended[place] = step;
        errors[place] = error.what();
      }
    }
  });
  EXPECT_EQ(ended, std::vector<int>(static_cast<std::size_t>(count), 3));
  EXPECT_THAT(errors[0], ::testing::HasSubstr("the gradients of 1 of 1 parameters"));
  EXPECT_THAT(errors[1], ::testing::HasSubstr("on the other ranks too"));
}

TEST_P(Ranks, DifferentScalesAreAnErrorOnAll) {
  const auto first_step = [](GradScaler& scaler) {
    auto parameter = torch::zeros({2}, torch::requires_grad());
    torch::optim::SGD optimizer({parameter}, 0.5);
    scaler.scale(torch::ones({}));
    parameter.mutable_grad() = torch::ones({2});
    scaler.step(optimizer);
    scaler.update();
  };
  for (const bool by_state : {false, true}) {
    std::atomic<int> refused{0};
    run_ranks(GetParam(), [&](int rank, const Group& group) {
      const double own = rank == 1 ? 1024 : 512;
      auto options = GradScalerOptions(c10::kCPU).process_group(group);
      GradScaler scaler(options.init_scale(by_state ? 512 : own));
      if (by_state) {
        first_step(scaler);
        auto state = *scaler.state();
        state.scale = own;
        scaler.load_state(state);
      }
      try {
        first_step(scaler);
      } catch (const UsageError& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr(
                                      c10::str("all ranks must start with the same scale, but got ",
                                               own, " on this rank and from 512 to 1024 on all")));
        ++refused;
      }
    });
    EXPECT_EQ(refused, GetParam());
  }
}

TEST(RankOptions, EmptyGroupIsAnError) {
  EXPECT_ERROR(GradScalerOptions(c10::kCPU).process_group({}), UsageError,
               "[GradScalerOptions::process_group]", "must not be empty");
}

}  // namespace halfstep::testing
