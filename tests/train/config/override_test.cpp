#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

const char* const base =
    "train_cfg:\n"
    "  max_epochs: 2\n"
    "steps:\n"
    "- {type: StepLR, gamma: 0.1}\n"
    "- {type: ExponentialLR}\n";

std::string overridden(const std::string& assignment) {
  Config config = Config::parse(base, "x.yaml");
  config.override_with(assignment);
  return config.resolved();
}

std::string override_message(const std::string& assignment) {
  Config config = Config::parse(base, "x.yaml");
  try {
    config.override_with(assignment);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST(ConfigOverride, ReplacesInPlaceOrAdds) {
  EXPECT_THAT(overridden("train_cfg.max_epochs=3"),
              ::testing::StartsWith("train_cfg:\n  max_epochs: 3\nsteps:"));
  EXPECT_THAT(overridden("train_cfg={max_epochs: 4}"),
              ::testing::StartsWith("train_cfg:\n  max_epochs: 4\nsteps:"));
  EXPECT_THAT(overridden("steps.0.gamma=0.5"), ::testing::HasSubstr("gamma: 0.5\n"));
  EXPECT_THAT(overridden("steps.1={type: Other}"), ::testing::HasSubstr("- type: Other\n"));
  EXPECT_THAT(overridden("a.b.c=[1, x]"), ::testing::EndsWith("a:\n  b:\n    c: [1, x]\n"));
  EXPECT_THAT(overridden("name=a=b"), ::testing::EndsWith("name: \"a=b\"\n"));
  EXPECT_THAT(overridden("lr=-1e-3"), ::testing::EndsWith("lr: -1e-3\n"));
  EXPECT_THAT(overridden("train_cfg.max_epochs=null"),
              ::testing::StartsWith("train_cfg:\n  max_epochs: null\n"));
}

TEST(ConfigOverride, NullOnTheWayBecomesAMapping) {
  Config config = Config::parse("a:\n");
  config.override_with("a.b=1");
  EXPECT_EQ(config.child("a").get<int64_t>("b"), 1);
}

TEST(ConfigOverride, ReplacesADefaultThatWasFilledIn) {
  Config config = Config::parse("a: 1");
  config.get<double>("lr", 0.5);
  config.override_with("lr=0.25");
  EXPECT_TRUE(config.has("lr"));
  EXPECT_EQ(config.get<double>("lr"), 0.25);
}

TEST(ConfigOverride, ThatIsMalformedIsAnError) {
  const struct {
    const char *assignment, *expected;
  } cases[] = {
      {"max_epochs", "[config] --cfg-options: must be key.key=value, but got 'max_epochs'"},
      {"=3", "[config] --cfg-options: must be key.key=value, but got '=3'"},
      {"", "[config] --cfg-options: must be key.key=value, but got ''"},
      {"a..b=3", "[config] --cfg-options a..b: a key must not be empty"},
      {"a.=3", "[config] --cfg-options a.: a key must not be empty"},
      {"a=", "[config] --cfg-options a: must have a value; write null for none, '' for an empty"},
      {"a={b c}", "[config] --cfg-options a: key 'b c' must be followed by a colon"},
      {"a.*.b=3", "no error"},
      {"model._delete_=true",
       "[config] --cfg-options model._delete_: _delete_ must stand in a file"},
      {"_base_=x.yaml", "[config] --cfg-options _base_: _base_ must stand in a file"},
      {"a={b: 1, b: 2}", "[config] --cfg-options a: key 'b' is given twice in a; keep one"},
      {"a\xFF=1", "[config] --cfg-options: must be UTF-8 text, but is not"},
      {"a=\xFF", "[config] --cfg-options a: must be UTF-8 text, but is not"},
      {"train_cfg.max_epochs.x=1",
       "[config] --cfg-options train_cfg.max_epochs.x: train_cfg.max_epochs must be a mapping or a "
       "list to have a key 'x', but got 2"},
      {"steps.2=1",
       "[config] --cfg-options steps.2: steps is a list of 2, whose elements are numbered from 0, "
       "but got 2; to add elements write the whole list: 'steps=[...]'"},
      {"steps.3.gamma=1",
       "[config] --cfg-options steps.3.gamma: steps is a list of 2, whose elements are numbered "
       "from 0, but got 3; to add"},
      {"steps.last.gamma=1",
       "[config] --cfg-options steps.last.gamma: steps is a list of 2, whose elements are numbered "
       "from 0, but got last; to add"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(override_message(c.assignment), ::testing::StartsWith(c.expected)) << c.assignment;
}

TEST(ConfigOverride, IsThePlaceInLaterErrors) {
  Config config = Config::parse(base, "x.yaml");
  config.override_with("train_cfg.max_epoch=3");
  auto cfg = config.child("train_cfg");
  config.children("steps");
  EXPECT_EQ(cfg.where("max_epoch"), "--cfg-options train_cfg.max_epoch");
  EXPECT_EQ(cfg.where("max_epochs"), "x.yaml:2");
  EXPECT_EQ(cfg.where(), "x.yaml:1");
  cfg.get<int64_t>("max_epochs");
  EXPECT_ERROR(cfg.finish(), UsageError,
               "[config] --cfg-options train_cfg.max_epoch: unknown key 'max_epoch' in train_cfg; "
               "allowed: max_epochs; did you mean 'max_epochs'?");

  config.override_with("train_cfg.max_epochs=five");
  EXPECT_ERROR(cfg.get<int64_t>("max_epochs"), UsageError,
               "[config] --cfg-options train_cfg.max_epochs: train_cfg.max_epochs must be an "
               "integer, but got five");
}

TEST(ConfigSet, ActsAsIfTheFileSaidSo) {
  Config config = Config::parse("w:\n  type: OptimWrapper\n", "x.yaml");
  auto w = config.child("w");
  w.set("type", "AmpOptimWrapper", "--amp");
  w.set("loss_scale", "dynamic");
  EXPECT_EQ(w.get<std::string>("type"), "AmpOptimWrapper");
  EXPECT_EQ(w.where("type"), "--amp");
  EXPECT_EQ(w.where("loss_scale"), "set by the program");
  EXPECT_EQ(config.resolved(), "w:\n  type: AmpOptimWrapper\n  loss_scale: dynamic\n");
  EXPECT_ERROR(w.set("x", "{b: 1]"), UsageError,
               "[config] set by the program: must be YAML, but: ");
}

}  // namespace halfstep::train
