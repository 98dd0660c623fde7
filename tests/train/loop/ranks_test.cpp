// A run of several real processes: the same config, each with its part of each batch.
#include "halfstep/core/error.h"
#include "halfstep/train/loop/rank_files.h"
#include "halfstep/train/loop/rank_state.h"
#include "halfstep/train/loop/trainer.h"

#include <csignal>

#include <torch/types.h>

#include "tests/dist/join.h"
#include "tests/support/errors.h"
#include "tests/support/rank_processes.h"
#include "tests/train/loop/blob_runs.h"

namespace halfstep::train::testing {

using dist::LaunchEnvironment;
using dist::ProcessGroup;
using halfstep::testing::expect_on_ranks;
using halfstep::testing::on_ranks;
using halfstep::testing::quick;
using halfstep::testing::read_file;
using ::testing::HasSubstr;

namespace {

/// Stops the run after a step, on one rank alone.
struct StopAt : Hook {
  StopAt(int64_t step, int rank) : step_(step), rank_(rank) {}
  void after_train_iter(Trainer& trainer, const Batch&) override {
    if (trainer.progress().step == step_ && trainer.ranks().rank() == rank_) trainer.request_stop();
  }
  int64_t step_;
  int rank_;
};

// No dropout, SGD: the mathematics do not depend on how a batch is divided.
const std::vector<std::string> plain = {
    "model={type: Mlp, sizes: [16, 32, 4]}",
    "optim_wrapper.optimizer={type: SGD, lr: 0.01, momentum: 0.9}"};

}  // namespace

class RankRuns : public BlobRuns {
 protected:
  std::unique_ptr<Trainer> make(ProcessGroup* group, const std::string& name,
                                std::vector<std::string> overrides, RunOptions options = {}) const {
    options.work_dir = folder_ / name;
    options.group = group;
    return std::make_unique<Trainer>(config(overrides), options);
  }

  /// Trains in `count` processes.
  void train_on(int count, const std::string& name, const std::vector<std::string>& overrides,
                const RunOptions& options = {},
                const std::function<void(Trainer&)>& also = nullptr) const {
    expect_on_ranks(count, [&](const LaunchEnvironment& launch) {
      ProcessGroup group(quick(launch));
      group.run([&] {
        const auto trainer = make(&group, name, overrides, options);
        trainer->train();
        if (also) also(*trainer);
      });
    });
  }

  std::vector<nlohmann::ordered_json> log_of(const std::string& name, int rank = 0) const {
    return lines_of((rank == 0 ? folder_ / name : rank_folder(folder_ / name, rank, true)) /
                    "log.jsonl");
  }

  static std::vector<std::string> with(std::vector<std::string> list,
                                       const std::vector<std::string>& more) {
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }

  Checkpoint last(const std::string& name) const {
    return Checkpoint::load(list_checkpoints(folder_ / name).back());
  }

  const halfstep::testing::RankFolder shared_;
  const std::filesystem::path folder_ = shared_.path();
};

void expect_same_weights(const Checkpoint& got, const Checkpoint& wanted, double tolerance) {
  int weights = 0;
  for (const auto& [name, tensor] : wanted.tensors) {
    if (!name.starts_with("model.")) continue;
    ++weights;
    ASSERT_TRUE(got.tensors.contains(name)) << name;
    EXPECT_TRUE(tolerance == 0
                    ? torch::equal(got.tensors.at(name), tensor)
                    : torch::allclose(got.tensors.at(name), tensor, tolerance, tolerance * 0.1))
        << name;
  }
  EXPECT_GT(weights, 0);
}

TEST_F(RankRuns, FourProcessesFollowOne) {
  train_on(4, "four", with(plain, {"train_dataloader.batch_size=4", "train_cfg.max_epochs=4"}));
  const auto one = make(nullptr, "one", with(plain, {"train_cfg.max_epochs=4"}));
  one->train();
  expect_same_weights(last("four"), last("one"), 1e-5);
  EXPECT_EQ(last("four").state.at("progress"), last("one").state.at("progress"));
  EXPECT_NEAR(log_of("four").back().at("test_loss").get<double>(),
              log_of("one").back().at("test_loss").get<double>(), 1e-6);
  EXPECT_EQ(log_of("four").back().at("test_accuracy"), log_of("one").back().at("test_accuracy"));
}

// 97 examples in batches of 3 x 5: a last one of 7, of which the ranks have 3, 2 and 2. With 91 it
// has 1: two ranks have none.
TEST_F(RankRuns, UnevenLastBatchesCountEachExampleOnce) {
  for (const int examples : {97, 91}) {
    const auto name = std::to_string(examples);
    const auto data = with(
        plain, {"train_dataloader.dataset.examples=" + name,
                "test_dataloader.dataset.examples=" + name, "test_dataloader.batch_size=11",
                "train_cfg.max_epochs=3", "optim_wrapper.optimizer.lr=0.0003",
                "val_evaluator=[{type: Accuracy, topk: [1, 2]}, {type: Accuracy, prefix: again}]"});
    train_on(3, name, with(data, {"train_dataloader.batch_size=5"}));
    if (halfstep::testing::is_rank_process()) continue;
    const auto one = make(nullptr, "one" + name, with(data, {"train_dataloader.batch_size=15"}));
    one->train();
    expect_same_weights(last(name), last("one" + name), 1e-5);
    const auto got = log_of(name).back();
    const auto wanted = log_of("one" + name).back();
    for (const char* metric : {"test_accuracy/top1", "test_accuracy/top2", "test_again/top1"}) {
      ASSERT_TRUE(wanted.contains(metric)) << wanted.dump();
      EXPECT_GT(wanted.at(metric), 0);
      EXPECT_LT(wanted.at(metric), 1);
      EXPECT_EQ(got.at(metric), wanted.at(metric)) << metric;
    }
    EXPECT_NEAR(got.at("test_loss").get<double>(), wanted.at("test_loss").get<double>(), 1e-6);
  }
}

// Its checkpoint is there already, which all ranks must know: they would write it together.
TEST_F(RankRuns, AFinishedRunIsResumedAndEndsAtOnce) {
  train_on(2, "run", {"train_cfg.max_epochs=1"});
  RunOptions resume;
  resume.resume = true;
  train_on(2, "run", {"train_cfg.max_epochs=1"}, resume, [](Trainer& trainer) {
    EXPECT_FALSE(trainer.resumed_from().empty());
    EXPECT_EQ(trainer.steps_of_this_process(), 0);
  });
}

TEST_F(RankRuns, OnlyTheFirstWritesTheRunsFiles) {
  train_on(2, "run", {"train_cfg.max_epochs=1"}, {},
           [](Trainer& trainer) { EXPECT_EQ(trainer.is_first(), trainer.ranks().rank() == 0); });
  const auto checkpoints = list_checkpoints(folder_ / "run");
  ASSERT_EQ(checkpoints.size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "run" / "config.yaml"));
  const auto other = folder_ / "run" / "ranks" / "rank_1";
  EXPECT_TRUE(list_checkpoints(other).empty());
  EXPECT_FALSE(std::filesystem::exists(other / "config.yaml"));
  for (const int rank : {0, 1}) {
    const auto first = log_of("run", rank).front();
    EXPECT_EQ(first.at("event"), "start");
    EXPECT_EQ(first.at("rank"), rank);
    EXPECT_EQ(first.at("ranks"), 2);
    EXPECT_EQ(first.at("backend"), "gloo");
    EXPECT_EQ(first.at("rank_seeds"), (nlohmann::json{0, 1}));
    EXPECT_EQ(log_of("run", rank).back().at("event"), "end");
  }
}

// Dropout: with the generators of all ranks in the checkpoint, a resumed run has the same bits.
TEST_F(RankRuns, ResumedRunEndsWithTheSameBits) {
  for (const auto& amp : {std::string("{type: OptimWrapper, optimizer: {type: Adam, lr: 0.01}}"),
                          std::string("{type: AmpOptimWrapper, dtype: float16, loss_scale: "
                                      "{init_scale: 6.0e+4, growth_interval: 4}, optimizer: {type: "
                                      "Adam, lr: 0.01}}")}) {
    const std::vector<std::string> overrides{"optim_wrapper=" + amp,
                                             "train_dataloader.batch_size=8"};
    train_on(2, "whole", overrides);
    expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
      ProcessGroup group(quick(launch));
      group.run([&] {
        const auto trainer = make(&group, "parts", overrides);
        trainer->register_hook(std::make_unique<StopAt>(1, 1));
        EXPECT_EQ(trainer->train(), Trainer::Outcome::stopped);
        // The others learn of it one step later, all at once.
        EXPECT_EQ(trainer->progress().step, 2);
      });
    });
    RunOptions resume;
    resume.resume = true;
    train_on(2, "parts", overrides, resume,
             [](Trainer& trainer) { EXPECT_FALSE(trainer.resumed_from().empty()); });
    if (halfstep::testing::is_rank_process()) continue;
    EXPECT_EQ(read_file(list_checkpoints(folder_ / "parts").back()),
              read_file(list_checkpoints(folder_ / "whole").back()));
    EXPECT_FALSE(torch::equal(last("whole").tensors.at("rng.cpu"),
                              last("whole").tensors.at("rank_1.rng.cpu")))
        << "each rank has random numbers of its own";
    std::filesystem::remove_all(folder_ / "whole");
    std::filesystem::remove_all(folder_ / "parts");
  }
}

// 96 examples: 6 steps of 2 x 8 in an epoch; stopped after 3, half of it.
TEST_F(RankRuns, AnotherNumberOfRanksGoesOnWhereItStood) {
  const auto stop_after = [&](const std::string& name, const std::vector<std::string>& overrides) {
    expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
      ProcessGroup group(quick(launch));
      group.run([&] {
        const auto trainer = make(&group, name, overrides);
        trainer->register_hook(std::make_unique<StopAt>(2, 0));
        trainer->train();
        EXPECT_EQ(trainer->progress().step, 3);
      });
    });
  };
  RunOptions resume;
  resume.resume = true;
  const auto run = with(plain, {"train_dataloader.batch_size=8"});
  // As many examples a step: the same run within rounding.
  stop_after("same", run);
  const auto results = on_ranks(4, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      const auto trainer =
          make(&group, "same", with(plain, {"train_dataloader.batch_size=4"}), resume);
      EXPECT_EQ(trainer->progress().step, 3);
      trainer->train();
    });
  });
  for (const auto& result : results) EXPECT_EQ(result.status, 0) << result.output;
  // Fewer examples a step: an epoch has 12 steps of 8, of which 6 are done.
  stop_after("fewer", run);
  if (halfstep::testing::is_rank_process()) return;
  EXPECT_THAT(
      results[0].output,
      HasSubstr("was written by 2 processes with batches of 8, this run has 4 processes with "
                "batches of 4: it goes on, but not with the same bits"));
  EXPECT_THAT(results[0].output, HasSubstr("the random generators of the processes but the first "
                                           "start anew"));
  EXPECT_THAT(results[0].output, ::testing::Not(HasSubstr("a step takes")));
  make(nullptr, "one", with(plain, {"train_dataloader.batch_size=16"}))->train();
  expect_same_weights(last("same"), last("one"), 1e-5);

  ::testing::internal::CaptureStderr();
  auto alone = make(nullptr, "fewer", run, resume);
  const auto warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(warnings, HasSubstr("this run has 1 process with batches of 8"));
  EXPECT_THAT(warnings,
              HasSubstr("a step takes 8 examples, where it took 16: an epoch has 12 steps "
                        "instead of 6, and what counts steps goes on from step 3"));
  EXPECT_EQ(alone->progress().batch, 6);
  alone->train();
  EXPECT_EQ(alone->progress().step, 3 + 6 + 12);
  EXPECT_EQ(alone->progress().epoch, 2);
  alone.reset();
  // And once more: the file is one of a run whose steps don't divide into epochs.
  EXPECT_EQ(make(nullptr, "fewer", run, resume)->progress().step, 21);
}

TEST_F(RankRuns, BatchesThatBeginElsewhereAreTold) {
  const Progress progress{.epoch = 1, .batch = 3, .step = 9};
  const RankLayout then{.ranks = 2, .batch_size = 8, .batches = 6};
  ::testing::internal::CaptureStderr();
  const auto moved = translate(progress, then, {.ranks = 5, .batch_size = 8, .batches = 3}, "file");
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("8 examples of epoch 2 are seen a second time"));
  EXPECT_EQ(moved.batch, 1);
  EXPECT_EQ(moved.step, 9);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(
      translate({.batch = 6, .step = 6}, then, {.ranks = 1, .batch_size = 8, .batches = 12}, "f")
          .batch,
      12)
      << "an epoch that was at its end still is";
  ::testing::internal::GetCapturedStderr();
}

// Each rank has added up its own part: the checkpoint has what the step would have made of it.
TEST_F(RankRuns, AccumulationGoesOnFromTheMeanOfAllRanks) {
  const auto overrides = with(plain, {"optim_wrapper.accumulative_counts=3",
                                      "train_dataloader.batch_size=8", "train_cfg.max_epochs=1"});
  expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      const auto trainer = make(&group, "run", overrides);
      trainer->register_hook(std::make_unique<StopAt>(1, 0));
      trainer->train();
      EXPECT_EQ(trainer->progress().step, 2);
    });
  });
  RunOptions resume;
  resume.resume = true;
  train_on(2, "run", overrides, resume);
  const auto one = make(nullptr, "one", with(overrides, {"train_dataloader.batch_size=16"}));
  one->train();
  expect_same_weights(last("run"), last("one"), 1e-5);
}

TEST_F(RankRuns, ConfigsThatDifferAreToldBeforeTraining) {
  const auto results = on_ranks(2, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      const auto lr = launch.rank == 1 ? "0.02" : "0.01";
      make(&group, "run", {std::string("optim_wrapper.optimizer.lr=") + lr})->train();
    });
  });
  for (const auto& result : results) {
    EXPECT_EQ(result.status, 1);
    EXPECT_THAT(result.output,
                HasSubstr("[config] the config (with --amp, --seed and --device) must "
                          "be the same on all ranks, but rank 1 differs from rank 0"));
    EXPECT_THAT(result.output, HasSubstr("\"lr\": 0.02,' instead of"));
  }
  EXPECT_TRUE(list_checkpoints(folder_ / "run").empty());
  // Where data lies may differ.
  auto config = Config::parse("train_dataloader: {dataset: {type: X, root: /a}}", "x");
  EXPECT_THAT(shared_settings(config, {}), ::testing::Not(HasSubstr("/a")));
}

TEST_F(RankRuns, SignalOfOneStopsAllAfterTheSameStep) {
  expect_on_ranks(2, [&](const LaunchEnvironment& launch) {
    ProcessGroup group(quick(launch));
    group.run([&] {
      struct Signal : Hook {
        void after_train_iter(Trainer& trainer, const Batch&) override {
          if (trainer.progress().step == 4 && trainer.ranks().rank() == 1) std::raise(SIGTERM);
        }
      };
      const auto trainer = make(&group, "run", {});
      trainer->register_hook(std::make_unique<Signal>());
      EXPECT_EQ(trainer->train(), Trainer::Outcome::stopped);
      EXPECT_EQ(trainer->progress().step, 5);
      EXPECT_EQ(trainer->stop_signal(), SIGTERM);
    });
  });
  EXPECT_EQ(last("run").state.at("progress").at("step"), 5);
}

TEST_F(RankRuns, TwoOptimizersAndAnUnusedParameter) {
  const std::vector<std::string> two{
      "model={type: TwoStepNet}", "test_cfg={fp16: false}",
      "optim_wrapper={constructor: OptimWrapperConstructor, first: {type: AmpOptimWrapper, dtype: "
      "float16, accumulative_counts: 2, optimizer: {type: Adam, lr: 0.01}}, last: {type: "
      "OptimWrapper, accumulative_counts: 3, optimizer: {type: RMSprop, lr: 0.01}}}"};
  train_on(2, "two", two, {}, [](Trainer& trainer) {
    dist::check_same_values(*trainer.ranks().group(), trainer.parts().model->named_parameters(),
                            "the weights");
  });
}

TEST_F(RankRuns, RatesAreScaledToTheBatchOfAllRanks) {
  const std::vector<std::string> scaled{"auto_scale_lr={enable: true, base_batch_size: 64}",
                                        "param_scheduler=[]"};
  train_on(2, "run", scaled, {}, [](Trainer& trainer) {
    EXPECT_DOUBLE_EQ(trainer.learning_rate(), 0.01 * 32 / 64);
    EXPECT_THAT(trainer.parts().wrappers.front().notes.back(),
                HasSubstr("those for 64 examples a step times 0.5, as a step has 32"));
  });
  if (halfstep::testing::is_rank_process()) return;
  // The checkpoint has the rate for 32 examples a step; alone it is 16.
  RunOptions resume;
  resume.resume = true;
  ::testing::internal::CaptureStderr();
  EXPECT_DOUBLE_EQ(make(nullptr, "run", scaled, resume)->learning_rate(), 0.01 * 16 / 64);
  ::testing::internal::GetCapturedStderr();
  const auto rate = [&](const std::vector<std::string>& overrides, bool flag) {
    RunOptions options;
    options.auto_scale_lr = flag;
    return make(nullptr, "alone", overrides, options)->learning_rate();
  };
  EXPECT_DOUBLE_EQ(rate(scaled, false), 0.01 * 16 / 64);
  EXPECT_DOUBLE_EQ(rate({"auto_scale_lr={base_batch_size: 64}"}, false), 0.01);
  EXPECT_DOUBLE_EQ(rate({"auto_scale_lr={base_batch_size: 64}"}, true), 0.01 * 16 / 64);
  EXPECT_ERROR(rate({}, true), UsageError, "auto_scale_lr");
  EXPECT_ERROR(rate({"auto_scale_lr={enable: true}"}, false), UsageError, "base_batch_size");
  EXPECT_ERROR(rate({"auto_scale_lr={enable: true, base_batch_size: 0}"}, false), UsageError,
               "base_batch_size must be at least 1 example");
}

TEST_F(RankRuns, WordsOfTheExchangeAreRead) {
  auto config = Config::parse(
      "model_wrapper_cfg: {type: MMDistributedDataParallel, find_unused_parameters: true, "
      "broadcast_buffers: false, bucket_cap_mb: 2.5, gradient_compression: bf16}\n"
      "env_cfg: {dist_cfg: {backend: gloo, timeout: 20, join_timeout: 2.5}}\n",
      "x.yaml");
  const auto options = read_ddp_options(config);
  EXPECT_TRUE(options.find_unused_parameters());
  EXPECT_FALSE(options.broadcast_buffers());
  EXPECT_EQ(options.bucket_cap_mb(), 2.5);
  EXPECT_EQ(options.gradient_compression(), dist::GradientCompression::bfloat16);
  dist::ProcessGroupOptions joining;
  read_dist_cfg(config, joining);
  EXPECT_EQ(joining.backend(), dist::Backend::gloo);
  EXPECT_EQ(joining.timeout(), std::chrono::seconds(20));
  EXPECT_EQ(joining.join_timeout(), std::chrono::milliseconds(2500));
  config.finish();
  const auto read = [](const std::string& text) {
    auto wrong = Config::parse(text, "x.yaml");
    dist::ProcessGroupOptions ignored;
    read_ddp_options(wrong);
    read_dist_cfg(wrong, ignored);
  };
  EXPECT_ERROR(read("model_wrapper_cfg: {type: FSDP}"), UsageError, "x.yaml:1",
               "must be DistributedDataParallel");
  EXPECT_ERROR(read("model_wrapper_cfg: {gradient_compression: int8}"), UsageError,
               "must be none, float16 or bfloat16");
  EXPECT_ERROR(read("model_wrapper_cfg: {bucket_cap_mb: 0.0}"), UsageError, "above 0");
  EXPECT_ERROR(read("find_unused_parameters: true\n"
                    "model_wrapper_cfg: {find_unused_parameters: true}"),
               UsageError, "left out where model_wrapper_cfg has it");
  EXPECT_ERROR(read("env_cfg: {dist_cfg: {backend: mpi}}"), UsageError,
               "must be automatic, gloo or nccl");
  EXPECT_ERROR(read("env_cfg: {dist_cfg: {timeout: 0.0}}"), UsageError, "above 0");
  EXPECT_ERROR(read("env_cfg: {dist_cfg: {join_timeout: -1}}"), UsageError, "join_timeout",
               "above 0");
}

}  // namespace halfstep::train::testing
