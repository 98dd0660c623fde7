#include "halfstep/train/files/rng_state.h"

#include "halfstep/core/error.h"

#include <torch/torch.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {

using halfstep::testing::expect_same_bits;

class RngState : public halfstep::testing::DeviceTest {};

TEST_P(RngState, DrawsTheSameNumbersAgain) {
  torch::manual_seed(3);
  const auto options = torch::TensorOptions().device(device());
  torch::randn({3}, options);  // leaves half of a pair of normal samples waiting
  Checkpoint checkpoint;
  save_rng(checkpoint);
  const halfstep::testing::TempFolder folder;
  checkpoint.save(folder.path() / "a");
  const auto normal = torch::randn({5}, options);
  const auto dropped = torch::dropout(torch::ones({64}, options), 0.5, true);
  ASSERT_GT(dropped.eq(0).sum().item<int64_t>(), 0);

  torch::manual_seed(99);
  EXPECT_FALSE(torch::randn({5}, options).equal(normal));
  load_rng(Checkpoint::load(folder.path() / "a"));
  expect_same_bits(torch::randn({5}, options), normal);
  expect_same_bits(torch::dropout(torch::ones({64}, options), 0.5, true), dropped);
}
HALFSTEP_ON_EACH_DEVICE(RngState);

TEST(RngStateFile, EqualStatesAreEqualBytes) {
  Checkpoint first;
  Checkpoint second;
  for (Checkpoint* checkpoint : {&first, &second}) {
    torch::manual_seed(5);
    torch::randn({7});
    save_rng(*checkpoint);
  }
  expect_same_bits(first.tensors.at("rng.cpu"), second.tensors.at("rng.cpu"));
}

TEST(RngStateErrors, SayWhatIsWrong) {
  Checkpoint checkpoint;
  EXPECT_ERROR(load_rng(checkpoint), EnvironmentError, "[checkpoint]", "rng.cpu", "has none");
  checkpoint.tensors["rng.cpu"] = torch::zeros({10}, torch::kByte);
  EXPECT_ERROR(load_rng(checkpoint), EnvironmentError,
               "must be a state of this LibTorch's generator",
               "use the LibTorch the checkpoint was made with");
}

}  // namespace halfstep::train
