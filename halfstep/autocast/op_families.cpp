#include "halfstep/autocast/op_names.h"

namespace halfstep::detail {

// A rule acts where a call enters the dispatcher. torch::nn::Linear never calls aten::linear: 2-D
// inputs with a bias enter by addmm, all others by matmul.
std::vector<std::string> family(std::string_view name) {
  if (name == "linear") return {"linear", "addmm", "_addmm_activation", "matmul"};
  if (name == "matmul")
    return {"matmul",
            "linear",
            "mm",
            "bmm",
            "mv",
            "addmm",
            "addmv",
            "addbmm",
            "baddbmm",
            "_addmm_activation",
            "einsum",
            "chain_matmul",
            "linalg_multi_dot"};
  if (name == "conv")
    return {"conv1d",
            "conv2d",
            "conv3d",
            "conv_tbc",
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
            "convolution",
            "_convolution",
            "cudnn_convolution",
            "cudnn_convolution_transpose",
            "mkldnn_convolution"};
  return {};
}

}  // namespace halfstep::detail
