#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <string>

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

std::string parse_message(const std::string& text) {
  try {
    Config::parse(text, "x.yaml");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

}  // namespace

TEST(ConfigText, ThatIsRefused) {
  const std::string anchors =
      "anchors and aliases (&name, *name) are not supported; write the value out";
  const struct {
    std::string text, expected;
  } cases[] = {
      {"", ": must hold a mapping (key: value), but got nothing"},
      {"# only a comment\n", ": must hold a mapping (key: value), but got nothing"},
      {"\n- 1\n", ":2: must hold a mapping (key: value), but got [1]"},
      {"5", ":1: must hold a mapping (key: value), but got 5"},
      {"null", ":1: must hold a mapping (key: value), but got null"},
      {"a: 1\nb: 2\na: 3\n", ":3: key 'a' is given twice, first on line 1; keep one"},
      {"a:\n  b: {c: 1,\n    c: 2}",
       ":3: key 'c' is given twice in a.b, first on line 2; keep one"},
      {"a: 1\n'a': 3\n", ":2: key 'a' is given twice, first on line 1; keep one"},
      {"a: 1\n---\nb: 2\n", ":2: must hold one YAML document, but a second one begins here"},
      {"a: 1\n---\n", ":2: must hold one YAML document, but a second one begins here"},
      {"{a: 1}\n{b: 2}", ":2: must hold one YAML document, but a second one begins here"},
      {"a: &x 1\nb: *x\n", ":1: " + anchors},
      {"a: &x {k: 1}\n", ":1: " + anchors},
      {"a: &x\n", ":1: " + anchors},
      {"&x a: 1\n", ":1: " + anchors},
      {"a: 1\nb: *x\n", ":2: must be YAML, but: the referenced anchor is not defined"},
      {"a: 1\n<<: {b: 1}\n", ":2: merge keys (<<) are not supported; write the keys out"},
      {"a: !!str 5\n", ":1: tags are not supported, but got 'tag:yaml.org,2002:str'; leave it out"},
      {"a: !mine {b: 1}\n", ":1: tags are not supported, but got '!mine'; leave it out"},
      {"a: ! x\n", ":1: tags are not supported, but got '!'; leave it out"},
      {"a: 1\nb: 'open\nc: 2\n", ":2: a quoted text begins here and never ends"},
      {"b: \"open\\\"\n", ":1: a quoted text begins here and never ends"},
      {"a: 1\n'b: 2\n", ":2: a quoted text begins here and never ends"},
      {"a: 1\nb\n", ":2: key 'b' must be followed by a colon and its value"},
      {"a: 1\nb", ":2: key 'b' must be followed by a colon and its value"},
      {"a: {b, c}",
       ":1: key 'b' must be followed by a colon and its value; is a bracket or brace left open?"},
      {"a: {b:1}",
       ":1: key 'b:1' must be followed by a colon and its value; is a bracket or brace left open?"},
      {"c: 1\na:\nb # c\n", ":3: the value of 'a' must be indented below its key"},
      {"a:\n  b:\n  'c'\n", ":3: the value of 'b' must be indented below its key"},
      {"a: 1\n% b: 2\n",
       ":2: a line must not begin with %; comments begin with #, directives are refused"},
      {"%YAML 1.2\n---\na: 1",
       ":1: a line must not begin with %; comments begin with #, directives are refused"},
      {"? a\n: 1", ":1: key 'a' must be followed by a colon and its value"},
      {"a: [1\n",
       ":1: key '1' must be followed by a colon and its value; is a bracket or brace left open?"},
      {"~: 1\n", ":1: a key must be a text; is a bracket or brace left open?"},
      {"a: 1\n? [b]\n: 1\n", ":2: a key must be a text; is a bracket or brace left open?"},
      {"'': 1\n", ":1: a key must not be empty"},
      {"\"a\\nb\": 1\n", ":1: a key must have no control characters"},
      {repeat("k", 201) + ": 1\n", ":1: a key must have at most 200 bytes, but got 201"},
      {"a: 1\nb: \xFF\n", ":2: must be UTF-8 text, but is not"},
      {"a: \xC0\x80\n", ":1: must be UTF-8 text, but is not"},
      {"a: \xED\xA0\x80\n", ":1: must be UTF-8 text, but is not"},
      {"a: \xE2\x82", ":1: must be UTF-8 text, but is not"},
      {"a: 1\n\nb: \x04 2\nc: 3\n",
       ":3: must be text, but got control character 4; write it as an escape in double quotes"},
      {std::string("a: 1\0b: 2", 9),
       ":1: must be text, but got control character 0; write it as an escape in double quotes"},
      {"a: " + repeat("[", 64) + repeat("]", 64), ":1: is nested deeper than 64 levels"},
      {"a: " + repeat("[", 100000) + repeat("]", 100000), ":1: is nested deeper than 64 levels"},
      {repeat("{a: ", 100000) + repeat("}", 100000), ":1: is nested deeper than 64 levels"},
      {repeat("- ", 100000), ":1: is nested deeper than 64 levels"},
  };
  for (const auto& c : cases)
    EXPECT_EQ(parse_message(c.text), "[config] x.yaml" + c.expected) << c.text.substr(0, 80);
}

TEST(ConfigText, ThatIsBrokenYaml) {
  const struct {
    const char *text, *place;
  } cases[] = {
      {"a: 1\n\tb: 2\n", "x.yaml:2"}, {"a: 1\n  b: 2\n", "x.yaml:2"}, {"a: b: c\n", "x.yaml:1"},
      {"a: {b: 1]\n", "x.yaml:1"},    {"a: \"\\q\"\n", "x.yaml:1"},   {"a:\n\t- 1\n", "x.yaml:2"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(parse_message(c.text),
                ::testing::AllOf(::testing::StartsWith("[config] " + std::string(c.place)),
                                 ::testing::HasSubstr(": must be YAML, but: ")))
        << c.text;
}

TEST(ConfigText, MayHoldWhatYamlAllows) {
  EXPECT_EQ(parse_message("\xEF\xBB\xBF"
                          "a: 1\r\nb: 'äöü €𝄞'\r\n"),
            "no error");
  EXPECT_EQ(parse_message("---\na: 50%\n...\n"), "no error");
  EXPECT_EQ(parse_message("a: " + repeat("[", 63) + repeat("]", 63)), "no error");
  EXPECT_EQ(Config::parse("a: |\n  one\n  two\n").get<std::string>("a"), "one\ntwo\n");
  EXPECT_EQ(Config::parse("a:\n  one\nb:\n- x\n").get<std::string>("a"), "one");
  EXPECT_EQ(Config::parse("a: one\n  two\n").get<std::string>("a"), "one two");
  EXPECT_EQ(Config::parse("\"<<\": 1").get<int64_t>("<<"), 1);
}

// Ten levels of ten would be 10^10 values.
TEST(ConfigText, BillionLaughsIsRefusedAtOnce) {
  std::string text = "a0: &a0 [x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string alias = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + repeat(alias + ", ", 9) +
            alias + "]\n";
  }
  EXPECT_THAT(parse_message(text), ::testing::HasSubstr("x.yaml:1: anchors and aliases"));
}

}  // namespace halfstep::train
