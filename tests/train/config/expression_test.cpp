#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <nlohmann/json.hpp>

namespace halfstep::train {
namespace {

using nlohmann::json;

// A variable of the environment for the time of a test.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

json values_of(const std::string& text) {
  const Config config = Config::parse(text, "x.yaml");
  json values = config.to_json();
  EXPECT_EQ(Config::parse(config.resolved()).to_json(), values) << config.resolved();
  return values;
}

std::string expression_message(const std::string& text) {
  try {
    Config::parse(text, "x.yaml");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST(ConfigExpression, TakesTheEnvironmentOrTheDefault) {
  const Variable number("HALFSTEP_TEST_NUMBER", "100");
  const Variable text("HALFSTEP_TEST_TEXT", "text_A");
  EXPECT_EQ(values_of("a: {{$HALFSTEP_TEST_TEXT:}}\n"
                      "b: {{$HALFSTEP_TEST_NUMBER:80}}\n"
                      "c: {{$HALFSTEP_TEST_UNSET:80}}\n"
                      "d: {{ '$HALFSTEP_TEST_UNSET : 8e1' }}\n"
                      "e: {{\"$HALFSTEP_TEST_NUMBER\"}}\n"
                      "f: '{{$HALFSTEP_TEST_NUMBER:80}}'\n"
                      "g: \"{{$HALFSTEP_TEST_UNSET:s3://x}}/images\"\n"
                      "h: runs/{{$HALFSTEP_TEST_TEXT}}-{{$HALFSTEP_TEST_NUMBER}}\n"
                      "i: [{{$HALFSTEP_TEST_NUMBER}}, {x: {{$HALFSTEP_TEST_UNSET:true}}}]\n"
                      "j: {{$HALFSTEP_TEST_UNSET:null}}\n"
                      "k: {{$HALFSTEP_TEST_UNSET:1}}{{$HALFSTEP_TEST_UNSET:2}}\n"
                      "l: one\n  {{$HALFSTEP_TEST_TEXT}}\n"),
            json::parse(R"({"a": "text_A", "b": 100, "c": 80, "d": 80.0, "e": 100, "f": "100",
                "g": "s3://x/images", "h": "runs/text_A-100", "i": [100, {"x": true}], "j": null,
                "k": 12, "l": "one text_A"})"));
}

TEST(ConfigExpression, TakesValuesAsTheyAre) {
  const Variable evil("HALFSTEP_TEST_TEXT", "a: [b] # {{$HOME}}\n\"c\"");
  EXPECT_EQ(values_of("a: {{$HALFSTEP_TEST_TEXT}}\nb: \"{{$HALFSTEP_TEST_TEXT}}\""),
            json({{"a", "a: [b] # {{$HOME}}\n\"c\""}, {"b", "a: [b] # {{$HOME}}\n\"c\""}}));
  EXPECT_EQ(values_of("a: \"{{'{{'}}x}} {{ '{{' }}{\"\nb: {{'{{'}}"),
            json({{"a", "{{x}} {{{"}, {"b", "{{"}}));
}

TEST(ConfigExpression, InCommentsMeansNothing) {
  EXPECT_EQ(values_of("a: 1  # {{nonsense}} {{\n# {{x\nb: {{$HALFSTEP_TEST_UNSET:2}} # {{y}}\n"),
            json({{"a", 1}, {"b", 2}}));
}

TEST(ConfigExpression, ThatIsWrongIsAnError) {
  const Variable empty("HALFSTEP_TEST_EMPTY", "");
  const Variable bad("HALFSTEP_TEST_BAD", "\xFF");
  const Variable large("HALFSTEP_TEST_LARGE", std::string(4097, 'x'));
  const struct {
    const char *text, *expected;
  } cases[] = {
      {"a: 1\nb: {{$HALFSTEP_TEST_UNSET:}}",
       ":2: {{$HALFSTEP_TEST_UNSET:}} must have a value, but HALFSTEP_TEST_UNSET is not set in the "
       "environment and no default is given; set it, or write {{$HALFSTEP_TEST_UNSET:default}}"},
      {"b: {{$HALFSTEP_TEST_UNSET}}", ":1: {{$HALFSTEP_TEST_UNSET}} must have a value, but"},
      {"b: {{$HALFSTEP_TEST_EMPTY:5}}",
       ":1: {{$HALFSTEP_TEST_EMPTY:5}} must have a value, but HALFSTEP_TEST_EMPTY is empty; set "
       "it"},
      {"b: {{$HALFSTEP_TEST_BAD}}",
       ":1: variable HALFSTEP_TEST_BAD: must be UTF-8 text, but is not"},
      {"b: {{$HALFSTEP_TEST_LARGE}}",
       ":1: {{$HALFSTEP_TEST_LARGE}} must have at most 4096 bytes, but got 4097"},
      {"b: {{$A-B:5}}", ":1: {{$A-B:5}} must name a variable of letters, digits and _"},
      {"b: {{$:5}}", ":1: {{$:5}} must name a variable of letters, digits and _"},
      {"b: '{{$A:it''s}}'", ":1: {{$A:it''s}} must have no quotes and backslashes inside"},
      {"b: {{fileDirName}}", ":1: {{fileDirName}} must stand in a file; a text has no name"},
      {"b: {{filename}}", ":1: {{filename}} must stand in a file"},
      {"b: {{x}}",
       ":1: {{x}} must be $NAME, $NAME:default, _base_.key, fileDirname, fileBasename, "},
      {"b: {{a: 1}}", ":1: {{a: 1}} must be $NAME"},
      {"b: {{}}", ":1: {{}} must be $NAME"},
      {"b: {{_base_.x}}", ":1: {{_base_.x}} must stand in a file that inherits, beside its _base_"},
      {"a: 1\nb: '{{x'", ":2: {{ must be closed by }} on its line; write {{'{{'}} for the two"},
      {"b: \"\\x7B{\"", ":1: {{ must be closed by }} on its line"},
      {"b: |\n  {{$HOME}}\n", ":1: {{...}} must not stand in a block text (| or >); write it in"},
      {"b: \"\\x01{{$HOME}}\"", ":1: a text with {{...}} must not have the escape \\x01"},
      {"b: \"{{$HOME}}\\x01\"", ":1: a text with {{...}} must not have the escape \\x01"},
      {"{{$HOME}}: 1", ":1: a key must have neither {{...}} nor control characters"},
      {"\"a{{\": 1", ":1: a key must not have {{, but got 'a{{'"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(expression_message(c.text),
                ::testing::StartsWith(std::string("[config] x.yaml") + c.expected))
        << c.text;
  EXPECT_EQ(expression_message("b: \"\\x01\""), "no error");
}

TEST(ConfigExpression, NamesTheFile) {
  const halfstep::testing::TempFolder temp;
  const auto folder = temp.path() / "with blank";
  std::filesystem::create_directories(folder);
  const auto file = folder / "run 1.test.yaml";
  std::ofstream(file)
      << "a: {{fileDirname}}\nb: {{ fileBasename }}\nc: work/{{fileBasenameNoExtension}}\n"
      << "d: {{fileExtname}}\n";
  EXPECT_EQ(Config::load(file).to_json(), json({{"a", std::filesystem::absolute(folder).string()},
                                                {"b", "run 1.test.yaml"},
                                                {"c", "work/run 1.test"},
                                                {"d", ".yaml"}}));
  std::ofstream(file) << "a: 1\nb: {{fileDirName}}\n";
  EXPECT_ERROR(Config::load(file), UsageError,
               "run 1.test.yaml:2: {{fileDirName}} must be one of fileDirname, fileBasename, ");
}

}  // namespace halfstep::train
