#include "halfstep/inspect/dtype_counter.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/nn/linear.h"

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include <torch/torch.h>

#include "tests/support/devices.h"

namespace halfstep::inspect {

namespace F = torch::nn::functional;

class DtypeCounters : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped()) return;
    x = torch::randn({6, 8}, device());
    y = torch::zeros({6}, torch::dtype(torch::kLong).device(device()));
  }

  AutocastOptions bfloat16() const { return AutocastOptions(GetParam()).dtype(torch::kBFloat16); }

  at::Tensor x;
  at::Tensor y;
};
HALFSTEP_ON_EACH_DEVICE(DtypeCounters);

using Counts = std::map<std::string, DtypeCounts>;

namespace {
template <class Function>
void on_thread(Function&& function) {
  std::thread(std::forward<Function>(function)).join();
}
}  // namespace

TEST_P(DtypeCounters, Float32) {
  torch::nn::Sequential net(nn::Linear(8, 8), torch::nn::ReLU(), nn::Linear(8, 3));
  net->to(device());
  const DtypeCounter counter;
  F::cross_entropy(net->forward(x), y);
  EXPECT_EQ(counter.report().kinds, (Counts{{"linear", {{torch::kFloat, 2}}},
                                            {"activation", {{torch::kFloat, 1}}},
                                            {"loss", {{torch::kFloat, 1}}}}));
  EXPECT_FALSE(counter.report().any_low_precision());
  EXPECT_EQ(
      counter.report().summary(),
      "linear float32 x2, activation float32 x1, loss float32 x1 (nothing was cast to 16 bits)");
}

TEST_P(DtypeCounters, Bfloat16) {
  torch::nn::Sequential net(nn::Linear(8, 8), torch::nn::ReLU(), nn::Linear(8, 3));
  net->to(device());
  const DtypeCounter counter;
  const Autocast autocast(bfloat16());
  F::cross_entropy(net->forward(x), y);
  EXPECT_EQ(counter.report().summary(),
            "linear bfloat16 x2, activation bfloat16 x1, loss float32 x1");
  EXPECT_EQ(counter.report().ops.at("linear"), (DtypeCounts{{torch::kBFloat16, 2}}));
  // Two weights, two biases, the input.
  EXPECT_EQ(counter.report().ops.at("_to_copy").at(torch::kBFloat16), 5);
  EXPECT_TRUE(counter.report().any_low_precision());
}

// C++ torch::nn::Linear is addmm or matmul, never at::linear.
TEST_P(DtypeCounters, EveryFormOfLinearCountsOnce) {
  torch::nn::Linear theirs(8, 3);
  theirs->to(device());
  nn::Linear ours(8, 3);
  ours->to(device());
  const auto deep = x.view({2, 3, 8});
  {
    const DtypeCounter counter;
    const Autocast autocast(bfloat16());
    theirs(x);
    theirs(deep);
    ours(x);
    ours(deep);
    EXPECT_EQ(counter.report().kinds, (Counts{{"linear", {{torch::kBFloat16, 4}}}}));
  }
  const DtypeCounter counter;
  theirs(x);
  theirs(deep);
  ours(x);
  ours(deep);
  EXPECT_EQ(counter.report().kinds, (Counts{{"linear", {{torch::kFloat, 4}}}}));
}

TEST_P(DtypeCounters, ConvolutionalNet) {
  torch::nn::Sequential net(torch::nn::Conv2d(1, 4, 3), torch::nn::BatchNorm2d(4),
                            torch::nn::ReLU(), torch::nn::MaxPool2d(2), torch::nn::Flatten(),
                            torch::nn::Dropout(0.5), nn::Linear(36, 3));
  net->to(device());
  const auto images = torch::randn({6, 1, 8, 8}, device());
  DtypeReport report;
  for (int step = 0; step < 2; ++step) {
    const DtypeCounter counter;
    torch::Tensor loss;
    {
      const Autocast autocast(bfloat16());
      loss = F::nll_loss(F::log_softmax(net->forward(images), 1), y);
    }
    loss.backward();
    report += counter.report();
  }
  // CPU's list leaves softmax in its input's dtype, CUDA's casts it to float32.
  const std::string softmax = GetParam() == torch::kCUDA ? "float32" : "bfloat16";
  EXPECT_EQ(report.summary(),
            "linear bfloat16 x2, convolution bfloat16 x2, batch_norm bfloat16 x2, dropout bfloat16 "
            "x2, pooling bfloat16 x2, activation bfloat16 x2, softmax " +
                softmax + " x2, loss float32 x2");
}

TEST_P(DtypeCounters, LeavesBackwardOut) {
  nn::Linear net(8, 3);
  net->to(device());
  const auto loss = F::cross_entropy(net(x), y);
  const DtypeCounter counter;
  loss.backward();
  // The gradient backward() starts from is made before it.
  EXPECT_EQ(counter.report().ops.count("ones_like"), 1);
  EXPECT_EQ(counter.report().ops.count("mm"), 0);
  EXPECT_EQ(counter.report().ops.count("sum"), 0);
  EXPECT_EQ(counter.report().summary(), "no layer ran (nothing was cast to 16 bits)");
}

TEST_P(DtypeCounters, NestedRegionsCountInTheirOwnDtype) {
  nn::Linear net(8, 3);
  net->to(device());
  const DtypeCounter counter;
  net(x);
  {
    const Autocast outer(bfloat16());
    net(x);
    {
      const Autocast inner(AutocastOptions(GetParam()).dtype(torch::kHalf));
      net(x);
    }
    const Autocast off(AutocastOptions(GetParam()).enabled(false));
    net(x);
  }
  EXPECT_EQ(counter.report().kinds.at("linear"),
            (DtypeCounts{{torch::kFloat, 2}, {torch::kBFloat16, 1}, {torch::kHalf, 1}}));
}

TEST_P(DtypeCounters, CountersNest) {
  const DtypeCounter outer;
  torch::relu(x);
  {
    const DtypeCounter inner;
    torch::relu(x.to(torch::kHalf));
    EXPECT_EQ(inner.report().kinds, (Counts{{"activation", {{torch::kHalf, 1}}}}));
  }
  torch::relu(x);
  EXPECT_EQ(outer.report().kinds,
            (Counts{{"activation", {{torch::kFloat, 2}, {torch::kHalf, 1}}}}));
}

TEST_P(DtypeCounters, CountersMayOverlap) {
  HALFSTEP_REQUIRE_TRUE_CUDA("calls inside of kernels");
  std::optional<DtypeCounter> first(std::in_place);
  const DtypeCounter second;
  torch::relu(x);
  first.reset();
  torch::relu_(x);
  EXPECT_EQ(second.report().ops, (Counts{{"relu", {{torch::kFloat, 1}}},
                                         {"relu_", {{torch::kFloat, 1}}},
                                         {"clamp_min", {{torch::kFloat, 1}}},
                                         {"clamp_min_", {{torch::kFloat, 1}}}}));
}

TEST_P(DtypeCounters, SeesInferenceMode) {
  nn::Linear net(8, 3);
  net->to(device());
  const DtypeCounter counter;
  const c10::InferenceMode inference;
  const Autocast autocast(bfloat16());
  net(x);
  EXPECT_EQ(counter.report().summary(), "linear bfloat16 x1");
}

TEST_P(DtypeCounters, OpsWithoutFloatingPointOutputsAreNotCounted) {
  const DtypeCounter counter;
  y.add(1);
  EXPECT_TRUE(counter.report().ops.empty());
  x.argmax();
  EXPECT_EQ(counter.report().ops.count("argmax"), 0);
}

TEST_P(DtypeCounters, OtherThreadsAndDeadCountersCountNothing) {
  std::optional<DtypeCounter> counter(std::in_place);
  on_thread([&] { torch::relu(x); });
  EXPECT_TRUE(counter->report().ops.empty());
  counter.reset();
  EXPECT_FALSE(at::hasCallbacks());
}

TEST_P(DtypeCounters, CountersInsidePropagatedWorkNest) {
  DtypeCounter outer;
  std::optional<DtypeCounter> ended_inside(std::in_place);
  propagate([&] {
    const DtypeCounter inner;
    at::relu(x);
    ended_inside.reset();
    at::relu(x);
    EXPECT_EQ(inner.report().kinds, (Counts{{"activation", {{torch::kFloat, 2}}}}));
  })();
  at::wrapPropagateTLSState([&] {
    const DtypeCounter inner;
    F::cross_entropy(x, y);
    EXPECT_EQ(inner.report().kinds, (Counts{{"loss", {{torch::kFloat, 1}}}}));
  })();
  at::relu(x);
  EXPECT_EQ(outer.report().kinds,
            (Counts{{"activation", {{torch::kFloat, 3}}}, {"loss", {{torch::kFloat, 1}}}}));
}

TEST_P(DtypeCounters, SeeWorkPropagatedBeforeThem) {
  const auto work = propagate([&] { at::relu(x); });
  const DtypeCounter counter;
  work();
  on_thread(work);
  EXPECT_EQ(counter.report().kinds, (Counts{{"activation", {{torch::kFloat, 1}}}}));
}

TEST_P(DtypeCounters, CountOnThreadsOfTheirOwn) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 1; i <= 3; ++i) {
    threads.emplace_back([this, i, &wrong] {
      for (int round = 0; round < 50; ++round) {
        const DtypeCounter counter;
        for (int op = 0; op < i; ++op) at::relu(x);
        if (counter.report().kinds != Counts{{"activation", {{torch::kFloat, i}}}}) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_FALSE(at::hasCallbacks());
}

TEST(DtypeReports, NameTheKindOfAnOp) {
  EXPECT_EQ(kind_of_op("addmm"), "linear");
  EXPECT_EQ(kind_of_op("relu_"), "activation");
  EXPECT_EQ(kind_of_op("cross_entropy_loss"), "loss");
  EXPECT_EQ(kind_of_op("add"), "");
}

TEST(DtypeReports, AddUp) {
  DtypeReport a, b;
  a.kinds["linear"][torch::kHalf] = 2;
  a.ops["linear"][torch::kHalf] = 2;
  b.kinds["linear"][torch::kHalf] = 3;
  b.kinds["loss"][torch::kFloat] = 1;
  a += b;
  EXPECT_EQ(a.summary(), "linear float16 x5, loss float32 x1");
  EXPECT_EQ(b.summary(), "linear float16 x3, loss float32 x1 (nothing was cast to 16 bits)");
}

TEST(DtypeCounterDeathTest, EndsTheProgramWhenACounterEndsOnAnotherThread) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        std::optional<DtypeCounter> counter(std::in_place);
        std::thread([&] { counter.reset(); }).join();
      },
      "\\[DtypeCounter\\] a counter must end on the thread that began it");
}

}  // namespace halfstep::inspect
