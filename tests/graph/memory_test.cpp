// A replay's memory plan: pieces lie apart, are found again in the next run, and are never given
// away while somebody holds them.
#include "halfstep/graph.h"
#include "halfstep/graph/memory_plan.h"
#include "halfstep/graph/replay_memory.h"
#include "halfstep/optim.h"

#include <algorithm>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include <c10/core/CPUAllocator.h>
#include <torch/types.h>

#include "tests/graph/steps.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::detail::MemoryPlan;
using halfstep::detail::MemoryUse;
using halfstep::detail::ReplayMemory;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using torch::Tensor;

TEST(MemoryPlan, PlacesByHand) {
  // 0 and 1 overlap; 2 comes when 0 is free; 3 is small and comes last.
  const std::vector<MemoryUse> uses{{100, 0, 2}, {64, 1, 4}, {128, 2, 4}, {10, 3, 4}};
  const auto plan = MemoryPlan::of(uses, 64);
  EXPECT_EQ(plan.offsets, (std::vector<size_t>{0, 128, 0, 192}));
  EXPECT_EQ(plan.bytes, 256);
  EXPECT_EQ(plan.predecessors[2], std::vector<size_t>{0});
  EXPECT_TRUE(plan.predecessors[1].empty() && plan.predecessors[3].empty());
}

TEST(MemoryPlan, RandomPiecesLieApartAndNearTheLeastMemory) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<MemoryUse> uses;
    for (int64_t i = 0; i < 60; ++i)
      uses.push_back({1 + random() % 5000, i, i + 1 + int64_t(random() % 12)});
    const auto plan = MemoryPlan::of(uses, 64);
    size_t most = 0;
    for (const auto& at_time : uses) {
      size_t held = 0;
      for (const auto& use : uses) {
        if (use.taken <= at_time.taken && at_time.taken < use.freed)
          held += (use.bytes + 63) / 64 * 64;
      }
      most = std::max(most, held);
    }
    EXPECT_GE(plan.bytes, most);
    EXPECT_LE(double(plan.bytes), 1.35 * double(most));
    for (size_t i = 0; i < uses.size(); ++i) {
      EXPECT_EQ(plan.offsets[i] % 64, 0);
      for (size_t j = 0; j < i; ++j) {
        const bool apart = plan.offsets[i] + uses[i].bytes <= plan.offsets[j] ||
                           plan.offsets[j] + uses[j].bytes <= plan.offsets[i];
        EXPECT_TRUE(apart || !uses[i].overlaps(uses[j]));
        const auto& before = plan.predecessors[i];
        EXPECT_EQ(!apart, std::count(before.begin(), before.end(), j) == 1);
      }
    }
  }
}

/// What a run took: one tensor that stays within it, and its output.
struct Taken {
  void* inner = nullptr;
  Tensor output;
};

Taken run(ReplayMemory& memory, int64_t size = 100) {
  ReplayMemory::Run run(memory);
  Taken taken;
  {
    const auto inner = torch::zeros({size});
    taken.inner = inner.data_ptr();
    taken.output = inner + 1;
  }
  run.end({taken.output}, {});
  return taken;
}

TEST(ReplayMemory, FindsItsMemoryAgain) {
  ReplayMemory memory;
  EXPECT_EQ(memory.to_string(), "");
  run(memory);
  // With the numbers that `+ 1` makes tensors of.
  EXPECT_EQ(memory.to_string(), "3 pieces in 0.00 MiB, 1 kept ones in 0.00 MiB");
  void* inner = run(memory).inner;
  void* output = nullptr;
  for (int i = 0; i < 3; ++i) {
    const auto taken = run(memory);
    EXPECT_EQ(taken.inner, inner);
    EXPECT_TRUE(output == nullptr || taken.output.data_ptr() == output);
    output = taken.output.data_ptr();
  }
}

TEST(ReplayMemory, OutputsThatAreHeldKeepTheirValues) {
  ReplayMemory memory;
  std::vector<Tensor> held;
  std::set<void*> places;
  for (int i = 0; i < 6; ++i) {
    held.push_back(run(memory).output.add_(i));
    places.insert(held.back().data_ptr());
  }
  EXPECT_EQ(places.size(), 6U);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(held[i].eq(i + 1).all().item<bool>());
}

TEST(ReplayMemory, ARunThatAsksForOtherMemoryIsWatchedAnew) {
  ReplayMemory memory;
  run(memory);
  EXPECT_NE(memory.to_string(), "");
  const auto other = run(memory, 7000);
  EXPECT_EQ(other.output.sum().item<float>(), 7000);
  EXPECT_EQ(memory.to_string(), "") << "the plan of another run was kept";
  run(memory, 7000);
  void* inner = run(memory, 7000).inner;
  EXPECT_EQ(run(memory, 7000).inner, inner);
}

TEST(ReplayMemory, WhatEscapesIsNeverGivenAway) {
  ReplayMemory memory;
  Tensor escaped;
  for (int i = 0; i < 5; ++i) {
    ReplayMemory::Run run(memory);
    auto inner = torch::full({500}, float(i));
    if (i == 2) escaped = inner;  // the plan says it is free when the run ends
    inner.reset();
    const auto next = torch::full({500}, -1.0F);
    run.end({}, {});
  }
  ASSERT_TRUE(escaped.defined());
  EXPECT_TRUE(escaped.eq(2).all().item<bool>());
}

TEST(ReplayMemory, APieceWhosePlaceIsHeldLiesElsewhere) {
  ReplayMemory memory;
  for (int i = 0; i < 4; ++i) {
    ReplayMemory::Run run(memory);
    Tensor held;
    {
      auto first = torch::full({500}, 1.0F);
      if (i == 2) held = first;  // longer than it was watched to be
    }
    auto second = torch::full({500}, 2.0F);
    if (held.defined()) {
      EXPECT_EQ(held.data_ptr<float>()[0], 1);  // an op would ask for memory
    }
    held.reset();
    second.reset();
    run.end({}, {});
    EXPECT_EQ(memory.to_string().rfind("2 pieces in 0.00 MiB", 0), 0U) << memory.to_string();
  }
}

TEST(ReplayMemory, ARunThatThrowsLeavesNoPlan) {
  ReplayMemory memory;
  run(memory);
  EXPECT_THROW(
      {
        ReplayMemory::Run run(memory);
        const auto inner = torch::zeros({100});
        throw std::runtime_error("no");
      },
      std::runtime_error);
  EXPECT_EQ(memory.to_string(), "");
  EXPECT_EQ(run(memory).output.sum().item<float>(), 100);
}

TEST(ReplayMemory, OutlivesItsReplayAndOtherThreadsAskLibTorch) {
  Taken taken;
  {
    ReplayMemory memory;
    run(memory);
    taken = run(memory);
    ReplayMemory::Run run(memory);
    Tensor elsewhere;
    std::thread([&] { elsewhere = torch::ones({100}); }).join();
    EXPECT_NE(elsewhere.data_ptr(), taken.inner);
  }
  EXPECT_EQ(taken.output.sum().item<float>(), 100);
  std::thread([output = std::move(taken.output)]() mutable { output.reset(); }).join();
}

// mkldnn and others take memory without a tensor.
TEST(ReplayMemory, RawMemoryIsGivenBack) {
  ReplayMemory memory;
  for (int i = 0; i < 3; ++i) {
    ReplayMemory::Run run(memory);
    auto* allocator = c10::GetCPUAllocator();
    void* raw = allocator->raw_allocate(300);
    std::fill_n(static_cast<char*>(raw), 300, 'x');
    allocator->raw_deallocate(raw);
    run.end({}, {});
  }
  EXPECT_EQ(memory.to_string().rfind("1 pieces", 0), 0U);
  void* raw = c10::GetCPUAllocator()->raw_allocate(300);
  c10::GetCPUAllocator()->raw_deallocate(raw);
}

struct MemoryTrain : Graph<std::vector<Tensor>(Tensor, Tensor)> {
  explicit MemoryTrain(Mlp its_net) : net(register_module("net", its_net)) {}
  std::vector<Tensor> build(const Tensor& x, const Tensor& y) override {
    const auto scores = net->forward(x);
    const auto loss = torch::nn::functional::cross_entropy(scores, y);
    loss.backward();
    return {loss, scores};
  }
  Mlp net;
};

struct MemoryTrained {
  explicit MemoryTrained(bool planned, bool hold, int64_t parts = 1) {
    torch::manual_seed(1);
    Mlp net;
    halfstep::optim::Adam adam(net->parameters(), halfstep::optim::AdamOptions(0.01));
    MemoryTrain train(net);
    std::ostringstream log;
    train.debug(1, log);
    train.config().enable_pass("plan_memory", planned).set_gradient_accumulation_steps(parts);
    if (!hold) train.add_optimizer(adam);
    for (int i = 0; i < 12; ++i) {
      for (auto& output : train(torch::randn({8, 12}), torch::randint(4, {8}, torch::kLong)))
        outputs.push_back(output);
      if (!hold) continue;
      // The user steps, and the gradients are still there in the next call.
      for (auto& parameter : net->parameters()) gradients.push_back(parameter.grad().clone());
      adam.step();
    }
    replayed = train.replayed_steps();
    for (const auto& tensor : state_of(*net)) outputs.push_back(tensor);
    text = log.str();
  }
  std::vector<Tensor> outputs, gradients;
  int64_t replayed = 0;
  std::string text;
};

TEST(GraphMemory, TrainsToTheSameBitsWithAPlanAndSaysSo) {
  for (const bool hold : {false, true}) {
    for (const int64_t parts : {1, 2}) {
      const MemoryTrained planned(true, hold, parts), plain(false, hold, parts);
      EXPECT_GE(planned.replayed, 10);
      EXPECT_TRUE(same_bits(planned.outputs, plain.outputs)) << hold << parts;
      EXPECT_TRUE(same_bits(planned.gradients, plain.gradients)) << hold << parts;
      EXPECT_NE(planned.text.find("[Graph] plan_memory: "), std::string::npos) << planned.text;
      EXPECT_EQ(plain.text.find("[Graph] plan_memory: "), std::string::npos);
    }
  }
}

}  // namespace
