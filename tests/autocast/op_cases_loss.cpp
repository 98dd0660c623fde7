#include <torch/types.h>

#include "tests/autocast/op_cases.h"

namespace halfstep::testing {

using enum Policy;
using T = Tensors;

std::vector<OpCase> loss_cases() {
  const auto m = normal({8, 8});
  const auto p = unit({8, 8});
  const auto classes = whole({8}, 8);
  return {
      op_case("cross_entropy_loss", fp32, none, {m, classes},
              [](const T& t) { return at::cross_entropy_loss(t[0], t[1]); }),
      op_case("nll_loss", fp32, fp32, {m, classes},
              [](const T& t) { return at::nll_loss(t[0], t[1]); }),
      op_case("nll_loss2d", fp32, fp32, {normal({2, 8, 3, 3}), whole({2, 3, 3}, 8)},
              [](const T& t) { return at::nll_loss2d(t[0], t[1]); }),
      op_case("mse_loss", fp32, fp32, {m, m}, [](const T& t) { return at::mse_loss(t[0], t[1]); }),
      op_case("l1_loss", fp32, fp32, {m, m}, [](const T& t) { return at::l1_loss(t[0], t[1]); }),
      op_case("smooth_l1_loss", fp32, fp32, {m, m},
              [](const T& t) { return at::smooth_l1_loss(t[0], t[1]); }),
      op_case("huber_loss", fp32, fp32, {m, m},
              [](const T& t) { return at::huber_loss(t[0], t[1]); }),
      op_case("kl_div", fp32, fp32, {m, p}, [](const T& t) { return at::kl_div(t[0], t[1]); }),
      op_case("poisson_nll_loss", fp32, fp32, {m, p},
              [](const T& t) {
                return at::poisson_nll_loss(t[0], t[1], true, false, 1e-8, at::Reduction::Mean);
              }),
      op_case("binary_cross_entropy", fp32, banned, {p, p},
              [](const T& t) { return at::binary_cross_entropy(t[0], t[1]); }),
      op_case("binary_cross_entropy_with_logits", fp32, fp32, {m, p},
              [](const T& t) { return at::binary_cross_entropy_with_logits(t[0], t[1]); }),
      op_case("cosine_embedding_loss", fp32, fp32, {m, m, sign({8})},
              [](const T& t) { return at::cosine_embedding_loss(t[0], t[1], t[2]); }),
      op_case("hinge_embedding_loss", fp32, fp32, {m, sign({8, 8})},
              [](const T& t) { return at::hinge_embedding_loss(t[0], t[1]); }),
      op_case("margin_ranking_loss", fp32, fp32, {m, m, sign({8})},
              [](const T& t) { return at::margin_ranking_loss(t[0], t[1], t[2]); }),
      op_case("multi_margin_loss", fp32, fp32, {m, classes},
              [](const T& t) { return at::multi_margin_loss(t[0], t[1]); }),
      op_case("multilabel_margin_loss", fp32, fp32, {m, whole({8, 8}, 8)},
              [](const T& t) { return at::multilabel_margin_loss(t[0], t[1]); }),
      op_case("multilabel_margin_loss_forward", fp32, none, {m, whole({8, 8}, 8)},
              [](const T& t) {
                return at::multilabel_margin_loss_forward(t[0], t[1], at::Reduction::Mean);
              }),
      op_case("soft_margin_loss", fp32, fp32, {m, sign({8, 8})},
              [](const T& t) { return at::soft_margin_loss(t[0], t[1]); }),
      op_case("triplet_margin_loss", fp32, fp32, {m, m, m},
              [](const T& t) { return at::triplet_margin_loss(t[0], t[1], t[2]); }),
      op_case("ctc_loss.IntList", fp32, none, {normal({12, 2, 5}), whole({2, 3}, 4)},
              [](const T& t) {
                return at::ctc_loss(t[0], t[1] + 1, {12, 12}, {3, 3});
              }),
      op_case("ctc_loss.Tensor", fp32, none, {normal({12, 2, 5}), whole({2, 3}, 4)},
              [](const T& t) {
                return at::ctc_loss(t[0], t[1] + 1, torch::tensor({12, 12}), torch::tensor({3, 3}));
              }),
  };
}

}  // namespace halfstep::testing
