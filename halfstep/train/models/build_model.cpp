#include "halfstep/train/models/build_model.h"

#include "halfstep/train/models/dcgan.h"
#include "halfstep/train/registry/registry.h"

namespace halfstep::train {

namespace {

void read_preprocessor(Config& config, Config& mapping, BaseModel& model) {
  auto own = mapping.child_if("data_preprocessor");
  auto common = config.child_if("data_preprocessor");
  if (own && common)
    config.fail("data_preprocessor", "must be left out where the model has its own (" +
                                         mapping.where("data_preprocessor") + ")");
  if (own || common) model.set_data_preprocessor(make_data_preprocessor(own ? *own : *common));
}

}  // namespace

std::shared_ptr<BaseModel> build_model(Config& config) {
  auto mapping = config.child("model");
  std::shared_ptr<BaseModel> model;
  try {
    model = models().build(mapping);
  } catch (const c10::Error& error) {
    mapping.fail("", std::string("must be one that LibTorch can build, but it says: ") +
                         error.what_without_backtrace() + "; check the model's sizes");
  }
  read_preprocessor(config, mapping, *model);
  // Others have losses of their own: for them the key is unknown.
  if (auto* simple = dynamic_cast<Model*>(model.get())) {
    auto loss = config.child("loss");
    simple->set_loss(losses().build(loss));
  }
  if (dynamic_cast<Dcgan*>(model.get()))
    for (const char* key : {"val_dataloader", "test_dataloader"})
      if (config.has(key))
        config.fail(key,
                    "must be left out for a GAN, which is measured by its images "
                    "(SampleGridHook)");
  return model;
}

}  // namespace halfstep::train
