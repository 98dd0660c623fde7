#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/config/scalar.h"

#include <bit>
#include <cfloat>
#include <cmath>
#include <random>

#include "tests/support/errors.h"
#include <nlohmann/json.hpp>

namespace halfstep::train {

TEST(ConfigResolved, KeepsTheFilesOrderThenDefaultsAsRead) {
  Config config = Config::parse(
      "zeta: 1e-3   # verbatim\n"
      "model:\n"
      "  type: Mlp\n"
      "  name: \"5\"\n"
      "list:\n"
      "- {type: A, at: [1, 2]}\n"
      "- [3, {deep: x}]\n"
      "empty: {}\n"
      "none:\n"
      "text: 'a: b'\n");
  EXPECT_EQ(config.get<int64_t>("later", 3), 3);
  auto model = config.child("model");
  EXPECT_EQ(model.get<double>("lr", 1.0), 1.0);
  EXPECT_EQ(model.get<std::string>("dtype", "bf16"), "bf16");
  EXPECT_EQ(model.get<std::string>("answer", "no"), "no");
  EXPECT_EQ(model.get<bool>("bias", true), true);
  EXPECT_EQ(model.get<std::vector<double>>("betas", {0.9, 0.999}).size(), 2u);
  EXPECT_EQ(config.get<int64_t>("none", 4), 4);
  EXPECT_TRUE(config.children("hooks").empty());
  EXPECT_EQ(config.get<double>("eps", 1e-8), 1e-8);
  EXPECT_EQ(config.resolved(),
            "zeta: 1e-3\n"
            "model:\n"
            "  type: Mlp\n"
            "  name: \"5\"\n"
            "  lr: 1.0\n"
            "  dtype: bf16\n"
            "  answer: \"no\"\n"
            "  bias: true\n"
            "  betas: [0.9, 0.999]\n"
            "list:\n"
            "  - type: A\n"
            "    at: [1, 2]\n"
            "  - - 3\n"
            "    - deep: x\n"
            "empty: {}\n"
            "none: 4\n"
            "text: \"a: b\"\n"
            "later: 3\n"
            "hooks: []\n"
            "eps: 1.0e-08\n");
  const std::string once = config.resolved();
  EXPECT_EQ(Config::parse(once).resolved(), once);
}

TEST(ConfigJson, HoldsTypedValuesAndDefaults) {
  Config config = Config::parse(
      "a: 1e-3\nb: 12\nc: true\nd: \"5\"\ne: [1, {f: text}]\ng: {}\nh:\ni: .inf\nj: 1e999\n");
  config.get<double>("k", 0.1);
  EXPECT_EQ(config.to_json(), nlohmann::json::parse(R"({"a": 0.001, "b": 12, "c": true, "d": "5",
      "e": [1, {"f": "text"}], "g": {}, "h": null, "i": ".inf", "j": "1e999", "k": 0.1})"));
}

TEST(ConfigResolved, LoadsBackEqual) {
  const char* texts[] = {
      "{}",
      "a: null",
      "\"~\": '~'\nb: 'null'\nc: ''\nd: 'true'\ne: '1e5'\nf: '0x1'\ng: '.inf'\nh: '-'\n",
      "a: \"\\0\\x04\\t\\n\\\"\\\\\\u20AC\\x7f\\e\"\n\"key: [\": ' x '\n",
      "a: '---'\nb: '...'\nc: '# no'\nd: '!x'\ne: '&x'\nf: '%x'\ng: '@x'\nh: '`x'\n",
      "a: [[1, [2, {b: [3]}]], []]\nb: [{}, {c: {}}]\n",
      "a: |\n  one\n\n  two\nb: >\n  folded\n  text\nc: plain\n  over lines\n",
      "a: 2001-01-01\nb: 12:30:00\nc: 1_000\nd: =\ne: 0b1\nf: '=x'\n",
      "1: 2\ntrue: false\n1.5: x\n",
      "a: foo, bar] {x}\nb: [foo bar, 'x, y']\n",
  };
  for (const char* text : texts) {
    const std::string once = Config::parse(text).resolved();
    EXPECT_EQ(Config::parse(once, "resolved").resolved(), once) << once;
  }
}

TEST(ConfigResolved, KeepsTextsExactly) {
  std::string text;
  for (int c = 0; c < 128; ++c) text += static_cast<char>(c);
  text += "é€𝄞\xEF\xBB\xBF\xC2\x85\xE2\x80\xA8";
  for (const std::string& value :
       {text, std::string(), std::string("null"), std::string("~"), std::string("true"),
        std::string("Off"), std::string("5"), std::string("-1e3"), std::string("0x1F"),
        std::string(".inf"), std::string("x "), std::string("a: b"), std::string("a #b"),
        std::string("- x"), std::string("[x]"), std::string("*x"), std::string("%x")}) {
    Config config = Config::parse("a: 1");
    config.get<std::string>("text", value);
    config.get<std::vector<std::string>>("list", {value, value});
    Config again = Config::parse(config.resolved());
    EXPECT_EQ(again.get<std::string>("text"), value);
    EXPECT_EQ(again.get<std::vector<std::string>>("list").at(1), value);
  }
}

TEST(ConfigResolved, KeepsDoublesToTheBitAndAsDoubles) {
  std::mt19937_64 random(7);
  std::vector<double> values{0.0,  -0.0,   1.0,     -3.0,   1e-3,    0.1,     1e22,   1e300,
                             1e16, 5e-324, 65536.0, 2.5e-8, DBL_MAX, DBL_MIN, 1.0 / 3};
  while (values.size() < 2000) {
    const double value = std::bit_cast<double>(random());
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    const std::string text = detail::to_yaml(value);
    EXPECT_NE(text.find('.'), std::string::npos) << text;
    Config config = Config::parse("a: 1");
    config.get<double>("x", value);
    const double again = Config::parse(config.resolved()).get<double>("x");
    EXPECT_EQ(std::bit_cast<uint64_t>(again), std::bit_cast<uint64_t>(value)) << text;
  }
}

}  // namespace halfstep::train
