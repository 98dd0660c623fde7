#include "halfstep/train/weights/pickle.h"

#include "halfstep/core/error.h"

#include <array>

#include "tests/support/errors.h"

namespace halfstep::train {
namespace {

using Kind = PickleValue::Kind;
using namespace std::string_literals;

constexpr std::array<std::string_view, 2> kAllowed{"collections.OrderedDict", "torch._utils.f"};

Pickle parse(const std::string& body, char protocol = 2) {
  return parse_pickle("\x80"s + protocol + body + ".", kAllowed, "input");
}
const PickleValue& root(const Pickle& pickle) {
  return pickle.at(pickle.root);
}

}  // namespace

TEST(Pickle, ReadsPlainValues) {
  EXPECT_EQ(root(parse("N")).kind, Kind::none);
  EXPECT_EQ(root(parse("\x88")).integer, 1);
  EXPECT_EQ(root(parse("\x89")).kind, Kind::boolean);
  EXPECT_EQ(root(parse("K\xff")).integer, 255);
  EXPECT_EQ(root(parse("M\x01\x02")).integer, 0x201);
  EXPECT_EQ(root(parse("J\xfe\xff\xff\xff")).integer, -2);
  EXPECT_EQ(root(parse("\x8a\x00"s)).integer, 0);
  EXPECT_EQ(root(parse("\x8a\x02\x00\x80"s)).integer, -32768);
  EXPECT_EQ(root(parse("\x8a\x08\x00\x00\x00\x00\x00\x01\x00\x00"s)).integer, int64_t{1} << 40);
  EXPECT_EQ(root(parse("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"s)).kind, Kind::large);
  EXPECT_EQ(root(parse("G\x3f\xf8\x00\x00\x00\x00\x00\x00"s)).real, 1.5);
  EXPECT_EQ(root(parse("X\x02\x00\x00\x00hi"s)).text, "hi");
  EXPECT_EQ(root(parse("\x8c\x02hi", 4)).text, "hi");
  EXPECT_EQ(root(parse("C\x02hi", 3)).kind, Kind::bytes);
}

TEST(Pickle, ReadsContainersAndWhatTheyShare) {
  const auto tuple = parse("(K\x01K\x02t");
  ASSERT_EQ(root(tuple).items.size(), 2u);
  EXPECT_EQ(tuple.at(root(tuple).items[1]).integer, 2);
  const auto list = parse(
      "]q\x00(K\x01h\x00"
      "e"s);  // holds itself
  EXPECT_EQ(root(list).items[1], list.root);
  const auto dict = parse(
      "}(U\x01"
      "aK\x01U\x01"
      "bK\x02u");
  EXPECT_EQ(root(dict).kind, Kind::dict);
  ASSERT_EQ(root(dict).items.size(), 4u);
  EXPECT_EQ(dict.at(root(dict).items[2]).text, "b");
}

TEST(Pickle, WritesDownCallsAndMakesOrderedDicts) {
  const auto ordered = parse(
      "ccollections\nOrderedDict\n)RU\x01"
      "aK\x05s}b");
  EXPECT_EQ(root(ordered).kind, Kind::dict);
  EXPECT_EQ(ordered.at(root(ordered).items[1]).integer, 5);
  const auto call = parse("ctorch._utils\nf\nK\x01\x85R");
  EXPECT_EQ(root(call).kind, Kind::call);
  EXPECT_EQ(call.at(root(call).items[0]).text, "torch._utils.f");
  const auto stacked = parse(
      "\x95\x08\x00\x00\x00\x00\x00\x00\x00\x8c\x0ctorch._utils\x8c\x01"
      "f\x93\x94"s,
      4);
  EXPECT_EQ(root(stacked).text, "torch._utils.f");
  EXPECT_EQ(root(parse("K\x01Q")).kind, Kind::persistent);
}

TEST(Pickle, RefusesAndNamesAnyOtherClassOrFunction) {
  EXPECT_ERROR(parse("cos\nsystem\nU\x04true\x85R"), EnvironmentError,
               "[pickle] input: ", "but holds a 'os.system', which could run code",
               "torch.save(model.state_dict(), FILE)");
  EXPECT_ERROR(parse("\x8c\x08"
                     "argparse\x8c\x09Namespace\x93)\x81",
                     4),
               EnvironmentError, "'argparse.Namespace'");
}

TEST(Pickle, RefusesWhatIsDamaged) {
  const std::string good =
      "(K\x01X\x02\x00\x00\x00hi]K\x02"
      "aG\x3f\xf8\x00\x00\x00\x00\x00\x00tq\x01"s;
  ASSERT_EQ(root(parse(good)).items.size(), 4u);
  const auto whole = "\x80\x02"s + good + ".";
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_ERROR(parse_pickle(whole.substr(0, size), kAllowed, "input"), EnvironmentError,
                 "[pickle] input: ", "get it again");
  for (const auto& [body, rule] : std::initializer_list<std::pair<std::string, const char*>>{
           {"t", "a mark must be there"},
           {"", "a value must be there"},
           {"K\x01(\x85", "a value must be there"},
           {"K\x01K\x02", "it must hold one value"},
           {"h\x05", "5 is not"},
           {"}(K\x01u", "must fit it"},
           {"K\x01K\x02"
            "a",
            "must fit it"},
           {"K\x01)R", "a call must be"},
           {"]}b", "attributes must be an OrderedDict's"},
           {"K\x01K\x02\x93", "a class's name must be a text"},
           {"i", "an opcode must be one of plain data, but is 105"},
           {"r\xff\xff\xff\xff", "a value must be there"},
           {"X\xff\xff\xff\xff", "it must go on for 4294967295 bytes"}})
    EXPECT_ERROR(parse(body), EnvironmentError, rule, "(at byte ");
  EXPECT_ERROR(parse_pickle("\x80\x01N.", kAllowed, "input"), EnvironmentError, "but is 1");
  EXPECT_ERROR(parse_pickle(std::string(kMaxPickle + 1, 'N'), kAllowed, "input"), EnvironmentError,
               "must have at most");
}

}  // namespace halfstep::train
