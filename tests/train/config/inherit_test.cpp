#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <filesystem>
#include <fstream>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <nlohmann/json.hpp>

namespace halfstep::train {
namespace {

using nlohmann::json;

class ConfigInherit : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_ / "_base_"); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  Config load(const std::string& name = "x.yaml") const { return Config::load(folder_ / name); }
  json values_of(const std::string& text) const {
    write("x.yaml", text);
    const Config config = load();
    json values = config.to_json();
    EXPECT_EQ(Config::parse(config.resolved()).to_json(), values) << config.resolved();
    return values;
  }
  // Without the folder.
  std::string message(const std::string& text) const {
    write("x.yaml", text);
    std::string what = "no error";
    try {
      load();
    } catch (const UsageError& error) {
      what = error.what();
    }
    for (size_t at; (at = what.find(folder_.string() + "/")) != what.npos;)
      what.erase(at, folder_.string().size() + 1);
    return what;
  }

  const halfstep::testing::TempFolder temp_;
  const std::filesystem::path folder_ = temp_.path();
};

}  // namespace

TEST_F(ConfigInherit, MergesMappingsAndOverwritesTheRest) {
  write("_base_/base.yaml",
        "item1: [1, 2]\nitem2: {a: 0, b: {c: 1, d: 2}}\nitem3: true\nitem4: test\nitem5: {x: 1}\n");
  EXPECT_EQ(values_of("_base_: _base_/base.yaml\n"
                      "item2: {b: {d: 3, e: 4}, a: 1}\nitem1: [2, 3]\nitem5: 7\nitem4: null\n"
                      "item6: {new: 1}\n"),
            json::parse(R"({"item1": [2, 3], "item2": {"a": 1, "b": {"c": 1, "d": 3, "e": 4}},
                "item3": true, "item4": null, "item5": 7, "item6": {"new": 1}})"));
  EXPECT_EQ(load().resolved(),
            "item1: [2, 3]\nitem2:\n  a: 1\n  b:\n    c: 1\n    d: 3\n    e: 4\n"
            "item3: true\nitem4: null\nitem5: 7\nitem6:\n  new: 1\n");
}

TEST_F(ConfigInherit, MayBeOfSeveralFilesAndOfTheirs) {
  write("_base_/model.yaml", "model: {type: Mlp, lr: 1}\n");
  write("_base_/deep.yaml", "a: 1\nb: {c: 2}\n");
  write("_base_/data.yaml", "_base_: ./deep.yaml\nb: {d: 3}\n");
  EXPECT_EQ(values_of("_base_: [_base_/model.yaml, '_base_/data.yaml']\na: 5\n"),
            json::parse(R"({"model": {"type": "Mlp", "lr": 1}, "a": 5, "b": {"c": 2, "d": 3}})"));
  EXPECT_EQ(values_of("_base_:\n- _base_/model.yaml\n"),
            json::parse(R"({"model": {"type": "Mlp", "lr": 1}})"));
  EXPECT_EQ(values_of("_base_: []\na: 1\n"), json({{"a", 1}}));
  EXPECT_EQ(values_of("_base_: " + (folder_ / "_base_/deep.yaml").string() + "\n"),
            json::parse(R"({"a": 1, "b": {"c": 2}})"));
}

TEST_F(ConfigInherit, NullInABaseIsNoValue) {
  write("base.yaml", "a:\nb: {c: 1}\n");
  EXPECT_EQ(values_of("_base_: base.yaml\na: {x: 1}\nb:\n"),
            json::parse(R"({"a": {"x": 1}, "b": null})"));
}

TEST_F(ConfigInherit, DeleteReplacesAMapping) {
  write("base.yaml", "a: {x: 1, y: {z: 2}}\nb: 5\nc: {d: {e: 1, f: 2}, g: 3}\n");
  EXPECT_EQ(values_of("_base_: base.yaml\n"
                      "a: {_delete_: true, w: 3}\nb: {_delete_: true, v: 1}\n"
                      "c: {_delete_: false, d: {_delete_: true, e: 4}}\n"),
            json::parse(R"({"a": {"w": 3}, "b": {"v": 1}, "c": {"d": {"e": 4}, "g": 3}})"));
}

TEST_F(ConfigInherit, ErrorsNameTheFileTheValueStandsIn) {
  write("base.yaml", "\nmodel:\n  type: Mlp\n  lr: fast\n  old: 1\ntrain: {n: 1}\n");
  write("x.yaml", "_base_: base.yaml\nmodel:\n  type: 5\ntrain: {m: 2}\n");
  auto config = load();
  auto model = config.child("model");
  const auto place = [&](const char* name) { return (folder_ / name).string(); };
  EXPECT_EQ(model.where("lr"), place("base.yaml:4"));
  EXPECT_EQ(model.where("type"), place("x.yaml:3"));
  EXPECT_EQ(model.where(), place("x.yaml:2"));
  EXPECT_EQ(config.where("train"), place("x.yaml:4"));
  EXPECT_EQ(config.child("train").where("n"), place("base.yaml:6"));
  EXPECT_ERROR(model.get<double>("lr"), UsageError, "[config] ",
               "base.yaml:4: model.lr must be a number, but got fast");
  EXPECT_ERROR(model.get<std::string>("type"), UsageError,
               "x.yaml:3: model.type must be a text, but got 5; put it in quotes");
  EXPECT_ERROR(model.finish(), UsageError, "base.yaml:5: unknown key 'old' in model; allowed: ");
}

TEST_F(ConfigInherit, MistakesAreErrors) {
  write("base.yaml", "a: {x: 1}\nb: 5\nl: [{a: 1}]\n");
  write("other.yaml", "c: 1\n\na: 2\n");
  write("broken.yaml", "a: 1\na: 2\n");
  write("self.yaml", "_base_: ./self.yaml\n");
  write("one.yaml", "_base_: two.yaml\n");
  write("two.yaml", "d: 1\n_base_: [_base_/../one.yaml]\n");
  write("list.yaml", "- 1\n");
  write("c.py", "a = 1\n");
  const struct {
    const char *text, *expected;
  } cases[] = {
      {"a: 1\n_base_: [base.yaml, other.yaml]",
       "other.yaml:3: key 'a' must be in one of the files that x.yaml:2 names in _base_, but "
       "base.yaml:1 has it, too; keep one, or let one of the files inherit the other"},
      {"_base_: base.yaml\n\nb: {y: 1}",
       "x.yaml:3: b must be a mapping in the file it is inherited from, too, to be merged, but "
       "base.yaml:2 has 5; write _delete_: true in it to replace that"},
      {"_base_: base.yaml\nl: {y: 1}",
       "x.yaml:2: l must be a mapping in the file it is inherited "
       "from, too, to be merged, but base.yaml:3 has a list with mappings; write _delete_: true"},
      {"_base_: base.yaml\na: {x: {_delete_: true, z: 1}, y: {_delete_: true}}",
       "x.yaml:2: a.y._delete_ must have something to delete, but no file in _base_ has a.y"},
      {"_base_: base.yaml\nn: {m: {_delete_: true}}",
       "x.yaml:2: n.m._delete_ must stand in a mapping that is merged"},
      {"_base_: base.yaml\nl: [{_delete_: true}]", "x.yaml:2: l.0._delete_ must stand in"},
      {"_base_: base.yaml\n_delete_: true",
       "x.yaml:2: _delete_ must stand in a mapping that is merged"},
      {"a: {_delete_: true}", "x.yaml:1: a._delete_ must stand in a mapping that is merged"},
      {"_base_: base.yaml\na: {_delete_: yes}",
       "x.yaml:2: a._delete_ must be true or false, but got yes"},
      {"_base_: base.yaml\na: {_delete_: 'true'}", "x.yaml:2: a._delete_ must be true or false"},
      {"_base_: base.yaml\na: {_base_: other.yaml}",
       "x.yaml:2: _base_ must stand at the top of a file, but got it in a"},
      {"_base_: none.yaml",
       "x.yaml:1: _base_ must name files that can be read, but got none.yaml: [config] a config "
       "must be a file that can be read, but got 'none.yaml' (No such file or directory)"},
      {"_base_: _base_",
       "x.yaml:1: _base_ must name files that can be read, but got _base_: [config] "
       "a config must be a file that can be read, but got '_base_' (is a directory)"},
      {"_base_: c.py",
       "x.yaml:1: _base_ must name files that can be read, but got c.py: [config] "
       "a config must be a YAML file, but got 'c.py'; tools/mm_config_to_yaml.py turns"},
      {"_base_: broken.yaml", "broken.yaml:2: key 'a' is given twice, first on line 1"},
      {"_base_: list.yaml", "list.yaml:1: must hold a mapping (key: value), but got [1]"},
      {"_base_: x.yaml",
       "x.yaml:1: _base_ must not lead back to a file that inherits it, but got x.yaml -> x.yaml"},
      {"_base_: self.yaml",
       "self.yaml:1: _base_ must not lead back to a file that inherits it, but "
       "got self.yaml -> self.yaml"},
      {"_base_: one.yaml",
       "two.yaml:2: _base_ must not lead back to a file that inherits it, but got "
       "one.yaml -> two.yaml -> one.yaml"},
      {"_base_: 5", "x.yaml:1: _base_ must be a file or a list of files, but got 5"},
      {"_base_: [a, 5]", "x.yaml:1: _base_ must be a file or a list of files, but got [a, 5]"},
      {"_base_: {a: 1}", "x.yaml:1: _base_ must be a file or a list of files, but got a mapping"},
      {"_base_:\n", "x.yaml:1: _base_ must be a file or a list of files, but got null"},
      {"_base_: ''", "x.yaml:1: _base_ must be a file or a list of files, but got \"\""},
  };
  for (const auto& c : cases)
    EXPECT_THAT(message(c.text), ::testing::StartsWith(std::string("[config] ") + c.expected))
        << c.text;
  EXPECT_ERROR(Config::parse("\n_base_: base.yaml", "text"), UsageError,
               "[config] text:2: _base_ must stand in a file, but this text is none");
}

TEST_F(ConfigInherit, BaseValuesAreCopied) {
  write("base1.yaml", "item1: [1, 2]\nitem3: true\nitem6: [{a: 0}, {b: '1'}]\n");
  write("base2.yaml", "item2: {a: 0}\nitem7: {b: {c: [3.1, 4.2]}}\nitem8: {{fileBasename}}\n");
  EXPECT_EQ(values_of("_base_: ['base{{$HALFSTEP_TEST_UNSET:1}}.yaml', ./base2.yaml]\n"
                      "item3: false\n"
                      "item9: {{ _base_.item2 }}\n"
                      "item10: {{_base_.item7.b.c}}\n"
                      "item11: {{_base_.item3}}\n"
                      "item12: {x: [{{_base_.item6}}, {{_base_.item6.1.b}}]}\n"
                      "item13: '{{_base_.item8}} of {{_base_.item7.b.c.0}}'\n"
                      "item14: {{_base_.item8}}\n"),
            json::parse(R"({"item1": [1, 2], "item3": false, "item6": [{"a": 0}, {"b": "1"}],
                "item2": {"a": 0}, "item7": {"b": {"c": [3.1, 4.2]}}, "item8": "base2.yaml",
                "item9": {"a": 0}, "item10": [3.1, 4.2], "item11": true,
                "item12": {"x": [[{"a": 0}, {"b": "1"}], "1"]}, "item13": "base2.yaml of 3.1",
                "item14": "base2.yaml"})"));
  auto config = load();
  config.override_with("item9.a=5");
  EXPECT_EQ(config.to_json()["item2"], json({{"a", 0}}));
  EXPECT_EQ(config.child("item2").where("a"), (folder_ / "base2.yaml:1").string());
  EXPECT_ERROR(config.child("item12").get<std::vector<double>>("x"), UsageError,
               "base1.yaml:3: item12.x.0 must be a number, but got a list with mappings");
}

TEST_F(ConfigInherit, BaseValuesThatAreNotThereAreErrors) {
  write("base.yaml", "a: {x: 1}\nl: [1]\n");
  const struct {
    const char *text, *expected;
  } cases[] = {
      {"{{_base_.b}}", "must name a value of the files in _base_, which have no b"},
      {"{{_base_.a.y}}", "must name a value of the files in _base_, which have no y"},
      {"{{_base_.a.x.y}}", "must name a value of the files in _base_, which have no y"},
      {"{{_base_.l.1}}", "must name a value of the files in _base_, which have no 1"},
      {"{{_base_}}", "must be _base_.key.key"},
      {"{{_base_a}}", "must be _base_.key.key"},
      {"{{_base_.}}", "must name a value of the files in _base_, which have no "},
      {"'{{_base_.a}}'",
       "must name a text or a number where other text stands beside it or around "
       "it, but got a mapping"},
      {"x{{_base_.l}}", "must name a text or a number where other text stands beside it"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(message(std::string("_base_: base.yaml\nk: ") + c.text),
                ::testing::AllOf(::testing::StartsWith("[config] x.yaml:2: {{_base_"),
                                 ::testing::HasSubstr(c.expected)))
        << c.text;
  EXPECT_THAT(
      message("_base_: '{{_base_.a}}'"),
      ::testing::StartsWith("[config] x.yaml:1: {{_base_.a}} must stand in a file that inherits"));
}

TEST_F(ConfigInherit, LimitsHold) {
  write("0.yaml", "a: [1]\n");
  for (int i = 1; i < 100; ++i)
    write(std::to_string(i) + ".yaml", "_base_: " + std::to_string(i - 1) + ".yaml\n" +
                                           (i < 30 ? "a: [{{_base_.a}}, {{_base_.a}}]\n" : ""));
  EXPECT_THAT(message("_base_: 29.yaml\n"),
              ::testing::HasSubstr(":2: must not copy more than 100000 values of _base_"));
  for (int i = 1; i < 100; ++i)
    write(std::to_string(i) + ".yaml",
          "_base_: " + std::to_string(i - 1) + ".yaml\n" + (i < 80 ? "a: [{{_base_.a}}]\n" : ""));
  EXPECT_THAT(message("_base_: 79.yaml\n"),
              ::testing::EndsWith("63.yaml:2: is nested deeper than 64 levels"));
  for (int i = 1; i < 100; ++i)
    write(std::to_string(i) + ".yaml", "_base_: " + std::to_string(i - 1) + ".yaml\n");
  EXPECT_EQ(message("_base_: 99.yaml\n"), "no error");
  write("100.yaml", "_base_: 99.yaml\n");
  EXPECT_THAT(
      message("_base_: 100.yaml\n"),
      ::testing::HasSubstr("1.yaml:1: _base_ must lead to at most 100 files, but got more"));
}

}  // namespace halfstep::train
