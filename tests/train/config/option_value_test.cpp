#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <string>

#include "tests/support/errors.h"
#include <nlohmann/json.hpp>

namespace halfstep::train {
namespace {

using nlohmann::json;

json value_of(const std::string& text) {
  Config config = Config::parse("{}");
  config.override_with("k=" + text);
  json value = config.to_json().at("k");
  EXPECT_EQ(Config::parse(config.resolved()).to_json().at("k"), value) << text;
  return value;
}

std::string option_message(const std::string& text) {
  Config config = Config::parse("{}");
  try {
    config.override_with("k=" + text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error, but " + config.to_json().dump();
}

struct Case {
  const char *text, *value;  // as JSON
};

}  // namespace

// What MMEngine's DictAction gives for these.
TEST(OptionValue, HasMMEnginesGrammar) {
  const Case cases[] = {
      {"1", "1"},
      {"-1", "-1"},
      {"0.1", "0.1"},
      {"1e-3", "0.001"},
      {"5.", "5.0"},
      {"x", "\"x\""},
      {"true", "true"},
      {"True", "true"},
      {"FALSE", "false"},
      {"None", "null"},
      {"none", "\"none\""},
      {"a=b", "\"a=b\""},
      {"a,b", R"(["a", "b"])"},
      {"1,2,3", "[1, 2, 3]"},
      {"1, 2.5, True, None", "[1, 2.5, true, null]"},
      {"1,", "[1]"},
      {"[1,2,3]", "[1, 2, 3]"},
      {"[ 1 , 2 ]", "[1, 2]"},
      {"[1]", "[1]"},
      {"[[1]]", "[[1]]"},
      {"[]", "[]"},
      {"()", "[]"},
      {"(1)", "[1]"},
      {"(1,)", "[1]"},
      {"(0.0, 0.999)", "[0.0, 0.999]"},
      {"[(a,b), [1,2], false]", R"([["a", "b"], [1, 2], false])"},
      {"[(1, 2, 3), [a, b], c]", R"([[1, 2, 3], ["a", "b"], "c"])"},
      {"'x'", "\"x\""},
      {"\"x\"", "\"x\""},
      {"['a', \"b\"]", R"(["a", "b"])"},
      {" x ", "\"x\""},
      {"/data/x-1_2.png", "\"/data/x-1_2.png\""},
  };
  for (const auto& c : cases) EXPECT_EQ(value_of(c.text), json::parse(c.value)) << c.text;
}

TEST(OptionValue, KeepsWhatYamlOptionsMean) {
  const Case cases[] = {
      {"null", "null"},
      {"~", "null"},
      {"'5'", "\"5\""},
      {"\"true\"", "\"true\""},
      {"['1', 2]", R"(["1", 2])"},
      {"''", "\"\""},
      {"'it''s'", "\"it's\""},
      {"\"a\\nb\"", "\"a\\nb\""},
      {"'a, b'", "\"a, b\""},
      {"'[1, 2]'", "\"[1, 2]\""},
      {"hello world", "\"hello world\""},
      {"{a: 1}", R"({"a": 1})"},
      {"{a: [1, x], b: {c: 'y}'}}", R"({"a": [1, "x"], "b": {"c": "y}"}})"},
      {"[{type: A, at: [1, 2]}, {type: B}]", R"([{"type": "A", "at": [1, 2]}, {"type": "B"}])"},
      {"{a: it's}", R"({"a": "it's"})"},
      {"{}", "{}"},
  };
  for (const auto& c : cases) EXPECT_EQ(value_of(c.text), json::parse(c.value)) << c.text;
}

// MMEngine loops for ever on some of these, YAML takes others for comments, anchors or mappings.
TEST(OptionValue, TakesOtherTextsAsTheyAre) {
  const Case cases[] = {
      {"f(a,b)", "\"f(a,b)\""},
      {"f(a,b),c", R"j(["f(a,b)", "c"])j"},
      {"[1, 2],[3]", "[[1, 2], [3]]"},
      {"#x", "\"#x\""},
      {"x #y", "\"x #y\""},
      {"*.png", "\"*.png\""},
      {"&x", "\"&x\""},
      {"!x", "\"!x\""},
      {"@x", "\"@x\""},
      {"%x", "\"%x\""},
      {"- 1", "\"- 1\""},
      {"a: b", "\"a: b\""},
      {"it's", "\"it's\""},
      {"a{b}", "\"a{b}\""},
      {"1_000", "\"1_000\""},
      {"inf", "\"inf\""},
      {"a{{b}}", "\"a{{b}}\""},
      {"'{{$HOME}}'", "\"{{$HOME}}\""},
  };
  for (const auto& c : cases) EXPECT_EQ(value_of(c.text), json::parse(c.value)) << c.text;
}

TEST(OptionValue, ThatIsMalformedIsAnError) {
  const std::string brackets = "must have balanced brackets, but got '";
  const struct {
    std::string text, rule;
  } cases[] = {
      {"[(a,b), [1,2], false", brackets + "[(a,b), [1,2], false'; put a text in quotes"},
      {"[1", brackets},
      {"(1]", brackets},
      {"1)", brackets},
      {"1]", brackets},
      {"a(b", brackets},
      {"a(b]", brackets},
      {"{a: 1", brackets},
      {"{a: [1}", brackets},
      {"[a, )]", brackets},
      {"[1][2]", "must be one value or values between commas, but got '[2]' after one"},
      {"'a' b", "must be one value or values between commas, but got 'b' after one"},
      {"{a: 1} x", "must be one value or values between commas, but got 'x' after one"},
      {"[1 , [2] 3]", "must be one value or values between commas, but got '3]' after one"},
      {"'a", "a quoted text must end with its quote, but got ''a'"},
      {"\"a\\\"", "a quoted text must end with its quote"},
      {"a,,b", "an element must have a value; write null for none, '' for an empty text"},
      {",", "an element must have a value"},
      {"[,]", "an element must have a value"},
      {"  ", "must have a value; write null for none, '' for an empty text"},
      {"{_delete_: true}", "k._delete_ must stand in a mapping that is merged"},
      {"a\nb", "must be one line; write a line end as \\n in double quotes"},
      {"a\x01", "must be text, but got control character 1"},
      {std::string(65, '['), "is nested deeper than 64 levels"},
      {std::string(64, '[') + std::string(64, ']'), "is nested deeper than 64 levels"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(option_message(c.text),
                ::testing::StartsWith("[config] --cfg-options k: " + c.rule))
        << c.text;
  EXPECT_THAT(option_message(std::string(63, '[') + std::string(63, ']')),
              ::testing::StartsWith("no error"));
}

TEST(OptionValue, OfAMappingKeepsTheKeysPath) {
  Config config = Config::parse("{}");
  config.override_with("a=[{lr: x}]");
  EXPECT_ERROR(config.children("a").at(0).get<double>("lr"), UsageError,
               "[config] --cfg-options a: a.0.lr must be a number, but got x");
}

// MMEngine's merge_from_dict.
TEST(OptionValue, ChangesWhatTheFileHas) {
  Config config = Config::parse(
      "item1: {c: 5}\nitem2: {a: 0, keep: 1}\nitem3: True\nitem: [{a: 0}, {b: 0, c: 0}]\n",
      "x.yaml");
  for (const char* option : {"item2.a=1", "item2.b=0.1", "item3=false", "item.0.a=1", "item.1.b=1",
                             "item1.a=1", "item1.a=2"})
    config.override_with(option);
  EXPECT_EQ(config.to_json(), json::parse(R"({"item1": {"a": 2, "c": 5},
      "item2": {"a": 1, "b": 0.1, "keep": 1}, "item3": false, "item": [{"a": 1}, {"b": 1, "c": 0}]})"));
  EXPECT_ERROR(config.override_with("item.2.a=1"), UsageError,
               "[config] --cfg-options item.2.a: item is a list of 2, whose elements are numbered "
               "from 0, but got 2");
}

}  // namespace halfstep::train
