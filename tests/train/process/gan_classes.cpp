// Which classes a trained classifier sees in what a trained GAN makes.
//
// usage: gan_classes GAN_WORK_DIR CLASSIFIER_WORK_DIR [SAMPLES] [CONFIDENCE]
#include "halfstep/train/files/module_state.h"
#include "halfstep/train/loop/work_dir.h"
#include "halfstep/train/models/base_gan.h"
#include "halfstep/train/models/build_model.h"

#include <cstdio>
#include <string>

#include <torch/types.h>
#include <torch/utils.h>

namespace {

using namespace halfstep::train;

std::shared_ptr<BaseModel> load(const std::filesystem::path& work_dir) {
  auto config = Config::load(work_dir / "config.yaml");
  const auto model = build_model(config);
  load_module(Checkpoint::load(list_checkpoints(work_dir).back()), *model);
  model->eval();
  return model;
}

}  // namespace

int main(int, char** argv) try {
  const std::string samples = argv[3] ? argv[3] : "1000";
  const double confidence = argv[3] && argv[4] ? std::stod(argv[4]) : 0.8;
  torch::manual_seed(0);
  const torch::NoGradGuard no_grad;
  const auto gan = std::dynamic_pointer_cast<BaseGan>(load(argv[1]));
  const auto images = gan->predict(gan->make_noise(std::stol(samples)));
  const auto [share, guess] = load(argv[2])->val_step({images, {}}).softmax(1).max(1);
  const auto sure = share > confidence;
  const auto counts = guess.masked_select(sure).bincount(/*weights=*/{}, /*minlength=*/10);
  for (int64_t i = 0; i < counts.size(0); ++i)
    std::printf("class %ld: %ld\n", i, counts[i].item<int64_t>());
  std::printf("%ld of %ld classes seen, in %ld of %s samples with confidence above %g\n",
              (counts > 0).sum().item<int64_t>(), counts.size(0), sure.sum().item<int64_t>(),
              samples.c_str(), confidence);
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
