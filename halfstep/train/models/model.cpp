#include "halfstep/train/models/model.h"

#include "halfstep/core/error.h"

namespace halfstep::train {

Losses Model::loss(const Batch& batch) {
  return {{"loss", loss_of(forward(batch.data), batch.target)}};
}

torch::Tensor Model::loss_of(const torch::Tensor& output, const torch::Tensor& target) const {
  HALFSTEP_CHECK_USAGE(loss_ != nullptr, "Model::loss",
                       "a model must have a loss to be trained or measured, but has none; call "
                       "set_loss first, or derive from BaseModel and write loss()");
  return loss_(output, target);
}

}  // namespace halfstep::train
