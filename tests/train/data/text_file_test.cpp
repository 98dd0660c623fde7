#include "halfstep/train/data/text_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

using halfstep::testing::TempFolder;

std::string text_of(const at::Tensor& tokens) {
  std::string text;
  const auto flat = tokens.flatten();
  for (int64_t i = 0; i < flat.numel(); ++i) text += static_cast<char>(flat[i].item<int64_t>());
  return text;
}

}  // namespace

TEST(TextFile, TargetsAreTheNextCharacters) {
  const TempFolder folder;
  const auto file = folder.write("a.txt", "abcdefghijklmnop\xc3\xa9");  // 18 bytes
  const TextFile data({.file = file, .context = 4});
  ASSERT_EQ(data.size(), 3);
  const auto batch = data.get_batch(at::tensor({int64_t{2}, int64_t{0}}));
  EXPECT_EQ(batch.data.sizes(), (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(batch.data.scalar_type(), at::kLong);
  EXPECT_EQ(text_of(batch.data), "ijklabcd");
  EXPECT_EQ(text_of(batch.target), "jklmbcde");
  const auto moved = data.draw_batch(at::tensor({int64_t{2}}), 7);
  EXPECT_EQ(text_of(moved.data), "lmno");
  EXPECT_EQ(text_of(moved.target), "mnop");
  const TextFile bytes({.file = file, .context = 1});
  EXPECT_EQ(bytes.get_batch(at::tensor({int64_t{16}})).target.item<int64_t>(), 0xa9);
}

TEST(TextFile, SplitsShareNoCharacter) {
  const TempFolder folder;
  const auto file = folder.write("a.txt", "abcdefghijklmnopqrst");
  const TextFile train({.file = file, .context = 2, .split = TextSplit::train, .test_share = 0.3});
  const TextFile test({.file = file, .context = 2, .split = TextSplit::test, .test_share = 0.3});
  EXPECT_EQ(train.size(), 6);
  EXPECT_EQ(text_of(train.get_batch(at::arange(6)).target), "bcdefghijklm");
  EXPECT_EQ(text_of(train.draw_batch(at::arange(6), 1).target), "cdefghijklmn");
  EXPECT_EQ(test.size(), 2);
  EXPECT_EQ(text_of(test.get_batch(at::arange(2)).data), "opqr");
  // What is measured stays the same.
  EXPECT_EQ(text_of(test.draw_batch(at::arange(2), 1).data), "opqr");
}

TEST(TextFile, RefusesWhatItCantUse) {
  const TempFolder folder;
  const auto file = folder.write("a.txt", "abcdefg");
  EXPECT_ERROR(TextFile({.file = folder.path() / "none"}), EnvironmentError, "must be a text",
               "No such file");
  EXPECT_ERROR(TextFile({.file = file, .context = 4}), EnvironmentError, "a.txt",
               "must have at least 2 examples of 4 characters", "has 7");
  EXPECT_ERROR(TextFile({.file = file, .context = 0}), UsageError, "context must be at least 1");
  EXPECT_ERROR(TextFile({.file = file, .context = 1, .test_share = 1}), UsageError, "test_share");
  EXPECT_ERROR(TextFile({.file = file, .context = 2}).get_batch(at::arange(3)), UsageError,
               "numbers from 0 to 1");
  auto config = Config::parse("{type: TextFile, file: " + file.string() + ", split: val}");
  EXPECT_ERROR(datasets().build(config), UsageError, "must be all, train or test");
}

}  // namespace halfstep::train
