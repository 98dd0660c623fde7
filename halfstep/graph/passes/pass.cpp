#include "halfstep/graph/passes/pass.h"

namespace halfstep::detail {

const std::vector<Pass>& passes() {
  static const std::vector<Pass> all = {
      {"reuse_views", reuse_views},
      {"drop_inverse_casts", drop_inverse_casts},
      {"reuse_results", reuse_results},
      {"remove_dead_calls", remove_dead_calls},
      {"choose_kernels", choose_kernels, "gave", "calls a kernel of halfstep's"},
      {"lower_convolutions", lower_convolutions, "made", "weight gradients products of matrices",
       /*by_default=*/false},
      {"fuse_batch_norm", fuse_batch_norm, "made", "calls of batch norms and what is beside them"},
      {"fuse_elementwise", fuse_elementwise, "joined", "runs of element-wise calls"},
      {"write_in_place", write_in_place, "wrote", "results over what nobody reads any more"},
      {"place_results", place_results, "found", "calls whose results stay where they are"}};
  return all;
}

}  // namespace halfstep::detail
