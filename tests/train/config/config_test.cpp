#include "halfstep/train/config/config.h"

#include "halfstep/core/error.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

Config parse(const std::string& text) {
  return Config::parse(text, "x.yaml");
}

// What reading a text with `use` throws, or "no error".
std::string message(
    const std::string& text, const std::function<void(Config&)>& use = [](Config&) {}) {
  try {
    Config config = parse(text);
    use(config);
    config.finish();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

template <class T>
std::string get_message(const std::string& value) {
  return message("a:\n  k: " + value + "\n", [](Config& c) { c.child("a").get<T>("k"); });
}

template <class T>
T get_value(const std::string& value) {
  return parse("k: " + value).get<T>("k");
}

}  // namespace

TEST(ConfigValues, AreTyped) {
  EXPECT_EQ(get_value<bool>("true"), true);
  EXPECT_EQ(get_value<bool>("false"), false);
  EXPECT_EQ(get_value<int64_t>("-12"), -12);
  EXPECT_EQ(get_value<int64_t>("+0"), 0);
  EXPECT_EQ(get_value<int64_t>("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(get_value<double>("1e-3"), 1e-3);
  EXPECT_EQ(get_value<double>("1.0e-3"), 1e-3);
  EXPECT_EQ(get_value<double>("+.5"), 0.5);
  EXPECT_EQ(get_value<double>("3"), 3.0);
  EXPECT_EQ(get_value<double>("5e-324"), 5e-324);
  EXPECT_EQ(get_value<std::string>("bf16"), "bf16");
  EXPECT_EQ(get_value<std::string>("\"5\""), "5");
  EXPECT_EQ(get_value<std::string>("''"), "");
  EXPECT_EQ(get_value<std::vector<int64_t>>("[784, 256]"), (std::vector<int64_t>{784, 256}));
  EXPECT_EQ(get_value<std::vector<double>>("[1, .5]"), (std::vector<double>{1, .5}));
  EXPECT_EQ(get_value<std::vector<std::string>>("[a, \"1\"]"),
            (std::vector<std::string>{"a", "1"}));
  EXPECT_EQ(get_value<std::vector<double>>("[]"), std::vector<double>{});
}

TEST(ConfigValues, OfAnotherTypeAreErrors) {
  const struct {
    std::string got, expected;
  } cases[] = {
      {get_message<bool>("yes"), "a.k must be true or false, but got yes; write true"},
      {get_message<bool>("Off"), "a.k must be true or false, but got Off; write false"},
      {get_message<bool>("1"), "a.k must be true or false, but got 1"},
      {get_message<bool>("'true'"),
       "a.k must be true or false, but got \"true\"; leave the quotes out"},
      {get_message<int64_t>("five"), "a.k must be an integer, but got five"},
      {get_message<int64_t>("2.0"), "a.k must be an integer in plain decimal digits, but got 2.0"},
      {get_message<int64_t>("010"), "a.k must be an integer in plain decimal digits, but got 010"},
      {get_message<int64_t>("0x10"),
       "a.k must be an integer in plain decimal digits, but got 0x10"},
      {get_message<int64_t>("\"5\""),
       "a.k must be an integer, but got \"5\"; leave the quotes out"},
      {get_message<int64_t>("99999999999999999999"),
       "a.k must be an integer between -9223372036854775808 and 9223372036854775807, but got "
       "99999999999999999999"},
      {get_message<int64_t>("[1]"), "a.k must be an integer, but got [1]"},
      {get_message<int64_t>("{x: 1}"), "a.k must be an integer, but got a mapping"},
      {get_message<double>("1e400"),
       "a.k must be a number in the range of a double, but got 1e400"},
      {get_message<double>("1e-400"),
       "a.k must be a number in the range of a double, but got 1e-400"},
      {get_message<double>(".inf"), "a.k must be a finite number, but got .inf"},
      {get_message<double>("-.INF"), "a.k must be a finite number, but got -.INF"},
      {get_message<double>(".nan"), "a.k must be a finite number, but got .nan"},
      {get_message<double>("nan"), "a.k must be a number, but got nan"},
      {get_message<double>("1e"), "a.k must be a number, but got 1e"},
      {get_message<double>("1_000"), "a.k must be a number, but got 1_000"},
      {get_message<double>("0x10"), "a.k must be a number in decimal digits, but got 0x10"},
      {get_message<double>("true"), "a.k must be a number, but got true"},
      {get_message<std::string>("5"), "a.k must be a text, but got 5; put it in quotes"},
      {get_message<std::string>("true"), "a.k must be a text, but got true; put it in quotes"},
      {get_message<std::string>("[a]"), "a.k must be a text, but got [a]"},
      {get_message<std::string>("[{a: 1}]"), "a.k must be a text, but got a list with mappings"},
      {get_message<std::vector<int64_t>>("5"),
       "a.k must be a list of integers, but got 5; write [a, b]"},
      {get_message<std::vector<int64_t>>("[1, x]"), "a.k.1 must be an integer, but got x"},
      {get_message<std::vector<double>>("[null]"), "a.k.0 must be a number, but got null"},
  };
  for (const auto& c : cases) EXPECT_EQ(c.got, "[config] x.yaml:2: " + c.expected);
}

TEST(ConfigValues, ErrorNamesTheLineOfAListsElement) {
  EXPECT_EQ(message("a:\n- 1\n- x\n", [](Config& c) { c.get<std::vector<int64_t>>("a"); }),
            "[config] x.yaml:3: a.1 must be an integer, but got x");
}

TEST(ConfigValues, LongOnesAreShortenedBetweenCharacters) {
  std::string letters = "x";  // so that the cut would fall into a character
  for (int i = 0; i < 40; ++i) letters += "é";
  const std::string got = get_message<int64_t>(letters);
  EXPECT_THAT(got, ::testing::EndsWith("é..."));
  EXPECT_LT(got.size(), 150u);
}

TEST(ConfigKeys, ThatNobodyReadAreErrors) {
  const auto read = [](Config& c) {
    auto cfg = c.child("train_cfg");
    cfg.get<int64_t>("max_epochs", 1);
    cfg.get<int64_t>("log_interval", 1);
  };
  EXPECT_EQ(message("train_cfg:\n  log_interval: 2\n\n  # five\n  max_epoch: 5\n", read),
            "[config] x.yaml:5: unknown key 'max_epoch' in train_cfg; allowed: log_interval, "
            "max_epochs; did you mean 'max_epochs'?");
  EXPECT_EQ(message("train_cfg: {}\nzzz: 1\n", read),
            "[config] x.yaml:2: unknown key 'zzz'; allowed: train_cfg");
  EXPECT_EQ(message("train_cfg: {}\n", read), "no error");
  EXPECT_EQ(message("train_cfg: {max_iters: null}\nzzz:\n", read), "no error")
      << "null is as good as leaving the key out: so an heir takes away what a base has";
  EXPECT_EQ(message("a: {b: 1}", [](Config& c) { c.has("a"); }),
            "[config] x.yaml:1: unknown key 'b' in a; allowed: none");
  EXPECT_EQ(message("a: [{b: 1}]", [](Config& c) { c.children("a"); }),
            "[config] x.yaml:1: unknown key 'b' in a.0; allowed: none");
  EXPECT_EQ(message("a: 1", [](Config& c) { c.is_number("a"); }),
            "[config] x.yaml:1: unknown key 'a'; allowed: none");
}

TEST(ConfigKeys, ThatAreIgnoredMayHoldAnything) {
  EXPECT_EQ(message("a: {b: {c: 1}}\nl: [{d: 1}]",
                    [](Config& c) {
                      c.ignore("a");
                      c.ignore("l");
                      c.ignore("none");
                    }),
            "no error");
}

TEST(ConfigKeys, ThatAreMissingAreErrors) {
  const auto read = [](Config& c) { c.child("a").get<int64_t>("max_epochs"); };
  EXPECT_EQ(message("\na:\n  b: 1\n", read),
            "[config] x.yaml:2: key 'max_epochs' is missing in a; add it");
  EXPECT_EQ(message("a:\n  b: 1\n  max_epoch: 1\n", read),
            "[config] x.yaml:1: key 'max_epochs' is missing in a; is 'max_epoch' (x.yaml:3) a "
            "misspelling of it?");
  EXPECT_EQ(message("a:\n  max_epochs:\n", read),
            "[config] x.yaml:2: a.max_epochs must be given, but got null");
  EXPECT_EQ(message("b: 1", read), "[config] x.yaml:1: key 'a' is missing; add it");
}

TEST(ConfigMappings, MustBeMappings) {
  EXPECT_EQ(message("\na: 5", [](Config& c) { c.child("a"); }),
            "[config] x.yaml:2: a must be a mapping, but got 5");
  EXPECT_EQ(message("a: [1]", [](Config& c) { c.child_if("a"); }),
            "[config] x.yaml:1: a must be a mapping, but got [1]");
  EXPECT_EQ(message("a: [1]", [](Config& c) { c.child_or_empty("a"); }),
            "[config] x.yaml:1: a must be a mapping, but got [1]");
  EXPECT_EQ(message("a: {b: 1}", [](Config& c) { c.children("a"); }),
            "[config] x.yaml:1: a must be a list of mappings, but got a mapping");
  EXPECT_EQ(message("a:\n- {}\n- 5", [](Config& c) { c.children("a"); }),
            "[config] x.yaml:3: a.1 must be a mapping, but got 5");
}

TEST(ConfigMappings, MayBeMissing) {
  Config config = parse("n:\nm: {x: 1}\nl: [{x: 2}, {x: 3}]");
  EXPECT_FALSE(config.child_if("a"));
  EXPECT_FALSE(config.child_if("n"));
  EXPECT_TRUE(config.children("a").empty());
  EXPECT_EQ(config.child_if("m")->get<int64_t>("x"), 1);
  EXPECT_EQ(config.child_or_empty("m").get<int64_t>("x"), 1);
  EXPECT_EQ(config.children("l").at(1).get<int64_t>("x"), 3);
  EXPECT_EQ(config.children("l").at(0).get<int64_t>("x"), 2);
  EXPECT_EQ(config.child_or_empty("h").get<int64_t>("x", 7), 7);
  EXPECT_EQ(config.child_or_empty("h").get<int64_t>("y", 8), 8);
  config.finish();
  EXPECT_THAT(config.resolved(), ::testing::EndsWith("h:\n  x: 7\n  y: 8\n"));
}

TEST(ConfigMappings, TellKindsApart) {
  Config config = parse("m: {}\nd: 1e999\ns: '5'\nb: true\nn: null\nl: [1]\n");
  EXPECT_TRUE(config.is_mapping("m"));
  EXPECT_FALSE(config.is_mapping("l"));
  EXPECT_FALSE(config.is_mapping("none"));
  EXPECT_TRUE(config.is_number("d"));
  for (const char* key : {"m", "s", "b", "n", "l", "none"}) EXPECT_FALSE(config.is_number(key));
  EXPECT_TRUE(config.has("m"));
  EXPECT_FALSE(config.has("n"));
  EXPECT_FALSE(config.has("none"));
}

TEST(ConfigMappings, DefaultIsNotGiven) {
  Config config = parse("n: null");
  EXPECT_EQ(config.get<double>("lr", 1e-3), 1e-3);
  EXPECT_EQ(config.get<double>("n", 2.0), 2.0);
  EXPECT_FALSE(config.has("lr"));
  EXPECT_FALSE(config.is_number("n"));
  EXPECT_EQ(config.get<double>("lr", 5.0), 5.0);
  EXPECT_ERROR(config.get<double>("lr"), UsageError, "key 'lr' is missing");
  EXPECT_ERROR(config.get<double>("x", std::numeric_limits<double>::infinity()), UsageError,
               "[Config::get] a default must be finite, but got inf");
}

TEST(ConfigFail, NamesPlaceKeyAndValue) {
  const auto fail = [](const std::string& key) {
    return message("a:\n\n  k: -1\n", [&](Config& c) {
      auto a = c.child("a");
      a.get<double>("filled", 0.5);
      a.fail(key, "must be good");
    });
  };
  EXPECT_EQ(fail("k"), "[config] x.yaml:3: a.k must be good, but got -1");
  EXPECT_EQ(fail("other"), "[config] x.yaml:1: a.other must be good, but is not given");
  EXPECT_EQ(fail("filled"), "[config] x.yaml:1: a.filled must be good, but got 0.5");
  EXPECT_EQ(fail(""), "[config] x.yaml:1: a must be good");
  EXPECT_EQ(message("k: 1", [](Config& c) { c.fail("", "the config must be good"); }),
            "[config] x.yaml:1: the config must be good");
}

TEST(ConfigPlaces, AreFileAndLine) {
  Config config = parse("\na:\n  k: 1\nl:\n  - x: 1\n");
  EXPECT_EQ(config.where(), "x.yaml:2");
  EXPECT_EQ(config.where("a"), "x.yaml:2");
  EXPECT_EQ(config.where("none"), "x.yaml:2");
  EXPECT_EQ(config.child("a").where(), "x.yaml:2");
  EXPECT_EQ(config.child("a").where("k"), "x.yaml:3");
  EXPECT_EQ(config.children("l").at(0).where(), "x.yaml:5");
}

class ConfigFile : public ::testing::Test {
 protected:
  std::filesystem::path file_ =
      std::filesystem::path(::testing::TempDir()) / "halfstep_config_test.yaml";
  void TearDown() override { std::filesystem::remove_all(file_); }
};

TEST_F(ConfigFile, IsRead) {
  std::ofstream(file_) << "# first\nk: 5\n";
  Config config = Config::load(file_);
  EXPECT_EQ(config.get<int64_t>("k"), 5);
  EXPECT_EQ(config.where("k"), file_.string() + ":2");
}

TEST_F(ConfigFile, ThatCannotBeReadIsTheEnvironmentsFault) {
  EXPECT_ERROR(Config::load(file_), EnvironmentError,
               "[config] a config must be a file that can be read, but got ",
               "halfstep_config_test.yaml' (No such file or directory); check its path");
  std::filesystem::create_directory(file_);
  EXPECT_ERROR(Config::load(file_), EnvironmentError,
               "halfstep_config_test.yaml' (is a directory); check");
}

TEST_F(ConfigFile, ThatIsTooLargeIsAnError) {
  std::ofstream(file_) << "k: '" << std::string(size_t{1} << 20, 'x') << "'\n";
  EXPECT_ERROR(Config::load(file_), UsageError, ".yaml: must have at most 1048576 bytes");
  EXPECT_ERROR(Config::load("/dev/zero"), UsageError, "/dev/zero: must have at most 1048576");
}

}  // namespace halfstep::train
