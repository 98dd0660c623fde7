#include "halfstep/train/launch/line_tail.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep::train::detail {

namespace {

using ::testing::ElementsAre;

TEST(LineTail, LinesComeWholeHoweverTheyAreCut) {
  std::vector<std::string> shown;
  const auto show = [&](const std::string& line) { shown.push_back(line); };
  LineTail tail;
  for (const char* bytes : {"a", "b\nc\n\nd", "", "e"}) tail.add(bytes, show);
  EXPECT_THAT(shown, ElementsAre("ab", "c", ""));
  tail.finish(show);
  tail.finish(show);
  EXPECT_THAT(shown, ElementsAre("ab", "c", "", "de"));
  EXPECT_THAT(tail.last(), ElementsAre("ab", "c", "de"));
}

TEST(LineTail, KeepsTheLastTwentyAndNoEndlessOne) {
  LineTail tail;
  for (int i = 0; i < 30; ++i) tail.add(std::to_string(i) + "\n", [](const auto&) {});
  EXPECT_EQ(tail.last().size(), 20u);
  EXPECT_EQ(tail.last().front(), "10");
  EXPECT_EQ(tail.last().back(), "29");
  tail.add(std::string(3000, 'x'), [](const auto&) {});
  tail.add(std::string(100'000, 'y'), [](const auto&) {});
  size_t length = 0;
  tail.add("z\nnext\n", [&](const auto& line) { length = std::max(length, line.size()); });
  EXPECT_EQ(length, 4096u);
  EXPECT_EQ(tail.last().back(), "next");
}

}  // namespace

}  // namespace halfstep::train::detail
