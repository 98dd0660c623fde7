#include "halfstep/train/hooks/hook_list.h"

#include "halfstep/core/error.h"
#include "halfstep/train/hooks/message_hub.h"
#include "halfstep/train/hooks/metric_rule.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>

#include "tests/support/errors.h"
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

struct Named : Hook {
  std::string name;
  int64_t own;
  explicit Named(std::string text, int64_t place = priority::normal)
      : name(std::move(text)), own(place) {}
  int64_t priority() const override { return own; }
};

std::string order(const HookList& hooks) {
  std::string text;
  hooks.for_each([&](const Hook& hook) { text += dynamic_cast<const Named&>(hook).name; });
  return text;
}

TEST(HookList, RunsInTheOrderOfPrioritiesThenOfRegistration) {
  HookList hooks;
  hooks.add(std::make_unique<Named>("d", priority::very_low));
  hooks.add(std::make_unique<Named>("b"));
  hooks.add(std::make_unique<Named>("c"));
  hooks.add(std::make_unique<Named>("a", priority::lowest), priority::very_high);
  hooks.add(std::make_unique<Named>("e"), priority::lowest);
  EXPECT_EQ(order(hooks), "abcde");
  hooks.add(std::make_unique<Named>("f"), 51);
  EXPECT_EQ(order(hooks), "abcfde");
}

TEST(HookList, RefusesNullAndPrioritiesOutOfRange) {
  HookList hooks;
  EXPECT_ERROR(hooks.add(nullptr), UsageError, "[HookList::add]", "got a null pointer");
  EXPECT_ERROR(hooks.add(std::make_unique<Named>("a"), -1), UsageError, "[HookList::add]",
               "from 0 to 100, but got -1");
  EXPECT_ERROR(hooks.add(std::make_unique<Named>("a", 101)), UsageError, "but got 101");
  EXPECT_EQ(hooks.size(), 0);
}

TEST(Priority, NamesAndNumbersOfMMEngine) {
  const std::pair<const char*, int64_t> cases[] = {
      {"HIGHEST", 0},  {"VERY_HIGH", 10},    {"HIGH", 30}, {"ABOVE_NORMAL", 40},
      {"NORMAL", 50},  {"BELOW_NORMAL", 60}, {"LOW", 70},  {"VERY_LOW", 90},
      {"LOWEST", 100}, {"Very_low", 90},     {"0", 0},     {"100", 100},
      {"73", 73}};
  for (const auto& [text, value] : cases) {
    auto config = Config::parse(std::string("priority: ") + text);
    EXPECT_EQ(read_priority(config), value) << text;
  }
  auto none = Config::parse("{}");
  EXPECT_FALSE(read_priority(none).has_value());
  for (const char* text : {"-1", "101", "LOWER", "''"}) {
    auto config = Config::parse(std::string("priority: ") + text, "x.yaml");
    EXPECT_ERROR(read_priority(config), UsageError, "[config] x.yaml:1: priority must be HIGHEST",
                 "from 0 to 100, but got");
  }
}

TEST(MessageHub, KeepsTheLastValuesOfEachName) {
  MessageHub hub;
  for (int i = 1; i <= 4; ++i) hub.update_scalar("train/loss", i);
  EXPECT_EQ(hub.current("train/loss"), 4);
  EXPECT_EQ(hub.mean("train/loss", 2), 3.5);
  EXPECT_EQ(hub.mean("train/loss", 10), 2.5);
  for (size_t i = 0; i < MessageHub::kept; ++i) hub.update_scalar("train/loss", 7);
  EXPECT_EQ(hub.mean("train/loss", 1'000'000), 7) << "older ones are forgotten";
}

TEST(MessageHub, ReadsTensorsOfAnyDtypeLate) {
  MessageHub hub;
  const auto loss = at::scalar_tensor(1.0, at::kBFloat16);
  hub.update_scalar("loss", loss);
  hub.update_scalar("loss", at::ones({1, 1}, at::kFloat) * 2);
  hub.update_scalar("loss", 6.0);
  EXPECT_EQ(hub.mean("loss", 3), 3);
  EXPECT_EQ(hub.mean("loss", 2), 4);
  loss.fill_(4);
  EXPECT_EQ(hub.mean("loss", 3), 4) << "it was read before somebody asked";
}

TEST(MessageHub, NamesInTheOrderInWhichTheyWereTold) {
  MessageHub hub;
  for (const char* name : {"train/b", "val/x", "train/a", "train/b"}) hub.update_scalar(name, 0);
  EXPECT_EQ(hub.names("train/"), (std::vector<std::string>{"train/b", "train/a"}));
  EXPECT_EQ(hub.names().size(), 3);
  EXPECT_TRUE(hub.has("val/x"));
  EXPECT_FALSE(hub.has("x"));
}

TEST(MessageHub, Errors) {
  MessageHub hub;
  EXPECT_ERROR(hub.current("x"), UsageError, "[MessageHub]", "'x' was not");
  EXPECT_ERROR(hub.update_scalar("x", at::ones({2})), UsageError, "[MessageHub::update_scalar]",
               "one element, but got [2] for 'x'");
  EXPECT_ERROR(hub.update_scalar("x", at::Tensor()), UsageError, "an undefined one");
  hub.update_scalar("x", 1);
  EXPECT_ERROR(hub.mean("x", 0), UsageError, "a window must be at least 1, but got 0");
}

TEST(MetricRule, IsGuessedAsMMEngineDoes) {
  for (const char* name :
       {"acc", "accuracy/top1", "Top5", "coco/bbox_mAP", "AR@100", "mIoU", "AUC", "val_acc_loss"})
    EXPECT_EQ(guess_rule(name), MetricRule::greater) << name;
  for (const char* name : {"loss", "LOSS", "val_loss", "loss_cls"})
    EXPECT_EQ(guess_rule(name), MetricRule::less) << name;
  for (const char* name : {"MAE", "error", ""}) EXPECT_FALSE(guess_rule(name).has_value()) << name;
}

}  // namespace
}  // namespace halfstep::train
