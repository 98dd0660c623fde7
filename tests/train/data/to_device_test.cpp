#include "halfstep/train/data/to_device.h"

#include <ATen/Functions.h>

#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

class ToDevice : public halfstep::testing::DeviceTest {};

TEST_P(ToDevice, BringsTheValuesWhateverTheirLayout) {
  const auto image = at::arange(48, at::kFloat).view({2, 3, 2, 4});
  const at::Tensor layouts[] = {
      image,
      image.contiguous(at::MemoryFormat::ChannelsLast),
      image.transpose(1, 3),
      image.slice(3, 0, 4, 2),
      image.select(1, 0).unsqueeze(1).expand({2, 3, 2, 4}),
      at::empty({0, 5}),
  };
  for (const auto& data : layouts) {
    const auto target = at::arange(data.size(0), at::kLong);
    const auto batch = to_device({data, target}, device());
    EXPECT_EQ(batch.data.device(), device());
    EXPECT_EQ(batch.target.device(), device());
    halfstep::testing::expect_same_bits(batch.data.cpu(), data);
    halfstep::testing::expect_same_bits(batch.target.cpu(), target);
  }
}

// The memory of a batch goes back before the device has read it.
TEST_P(ToDevice, BatchesOfAHurryDoNotMix) {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < 50; ++i)
    batches.push_back(
        to_device({at::full({1 << 16}, static_cast<float>(i)), at::full({1}, i)}, device()));
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_TRUE(batches[static_cast<size_t>(i)].data.eq(static_cast<float>(i)).all().item<bool>());
    EXPECT_EQ(batches[static_cast<size_t>(i)].target.item<int64_t>(), i);
  }
}

HALFSTEP_ON_EACH_DEVICE(ToDevice);

TEST(ToDeviceOnTheCpu, CopiesNothing) {
  const Batch batch{at::ones({3}), at::ones({3})};
  EXPECT_TRUE(to_device(batch, c10::kCPU).data.is_same(batch.data));
}

}  // namespace
}  // namespace halfstep::train
