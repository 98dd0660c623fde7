#include "halfstep/train/hooks/progress_bar.h"

#include <gtest/gtest.h>

namespace halfstep::train {

TEST(ProgressBar, FillsWithTheShare) {
  EXPECT_EQ(bar_line("Epoch 1/2", 0.0, {"Loss: 1"}, 80),
            "Epoch 1/2 [>                             ] Loss: 1");
  EXPECT_EQ(bar_line("Epoch 1/2", 0.5, {"Loss: 1"}, 80),
            "Epoch 1/2 [===============>              ] Loss: 1");
  EXPECT_EQ(bar_line("Epoch 1/2", 1.0, {"Loss: 1"}, 80),
            "Epoch 1/2 [==============================] Loss: 1");
}

TEST(ProgressBar, NeverPassesTheTerminalsWidth) {
  for (size_t width = 1; width < 120; ++width) {
    const auto line = bar_line("Epoch 1/2", 0.7, {"loss 0.1235", "ETA 0:12", "lr 0.001"}, width);
    EXPECT_LE(line.size(), width);
    EXPECT_TRUE(std::string("Epoch 1/2").starts_with(line.substr(0, 9)));
  }
}

TEST(ProgressBar, GivesTheFirstFieldRoomBeforeTheBar) {
  EXPECT_EQ(bar_line("Epoch 1/2", 0.7, {"loss 0.1235", "ETA 0:12"}, 26), "Epoch 1/2 loss 0.1235");
}

TEST(ProgressBar, LeavesOutTheLastFieldsForABar) {
  const std::vector<std::string> fields{"loss 0.1235", "ETA 0:12", "lr 0.001"};
  EXPECT_EQ(bar_line("Epoch 1/2", 0.4, fields, 47),
            "Epoch 1/2 [==>  ] loss 0.1235 ETA 0:12 lr 0.001");
  EXPECT_EQ(bar_line("Epoch 1/2", 0.4, fields, 46),
            "Epoch 1/2 [=====>       ] loss 0.1235 ETA 0:12");
}

}  // namespace halfstep::train
