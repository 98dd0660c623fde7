#include <torch/types.h>

#include "tests/autocast/op_cases.h"

namespace halfstep::testing {

using enum Policy;
using T = Tensors;

std::vector<OpCase> pointwise_cases() {
  const auto m = normal({8, 8});
  const auto v = normal({8});
  const auto u = unit({8, 8});
  return {
      op_case("acos", none, fp32, {u}, [](const T& t) { return at::acos(t[0]); }),
      op_case("asin", none, fp32, {u}, [](const T& t) { return at::asin(t[0]); }),
      op_case("cosh", none, fp32, {m}, [](const T& t) { return at::cosh(t[0]); }),
      op_case("erfinv", none, fp32, {u}, [](const T& t) { return at::erfinv(t[0]); }),
      op_case("exp", none, fp32, {m}, [](const T& t) { return at::exp(t[0]); }),
      op_case("expm1", none, fp32, {m}, [](const T& t) { return at::expm1(t[0]); }),
      op_case("log", none, fp32, {u}, [](const T& t) { return at::log(t[0]); }),
      op_case("log10", none, fp32, {u}, [](const T& t) { return at::log10(t[0]); }),
      op_case("log1p", none, fp32, {u}, [](const T& t) { return at::log1p(t[0]); }),
      op_case("log2", none, fp32, {u}, [](const T& t) { return at::log2(t[0]); }),
      op_case("reciprocal", none, fp32, {u}, [](const T& t) { return at::reciprocal(t[0]); }),
      op_case("rsqrt", none, fp32, {u}, [](const T& t) { return at::rsqrt(t[0]); }),
      op_case("sinh", none, fp32, {m}, [](const T& t) { return at::sinh(t[0]); }),
      op_case("tan", none, fp32, {u}, [](const T& t) { return at::tan(t[0]); }),
      op_case("pow.Tensor_Scalar", none, fp32, {u}, [](const T& t) { return at::pow(t[0], 1.7); }),
      op_case("pow.Tensor_Tensor", none, fp32, {u, m},
              [](const T& t) { return at::pow(t[0], t[1]); }),
      op_case("pow.Scalar", none, fp32, {m}, [](const T& t) { return at::pow(1.7, t[0]); }),
      op_case("softplus", none, fp32, {m}, [](const T& t) { return at::softplus(t[0]); }),
      op_case("polar", fp32, none, {u, m}, [](const T& t) { return at::polar(t[0], t[1]); }),
      op_case("view_as_complex", fp32, none, {normal({8, 2})},
              [](const T& t) { return at::view_as_complex(t[0]); }),
      op_case("fake_quantize_per_tensor_affine", fp32, none, {m},
              [](const T& t) { return at::fake_quantize_per_tensor_affine(t[0], 0.1, 0, 0, 255); }),

      op_case("layer_norm", none, fp32, {m, v, v},
              [](const T& t) { return at::layer_norm(t[0], {8}, t[1], t[2]); }),
      op_case("native_layer_norm", none, fp32, {m, v, v},
              [](const T& t) { return at::native_layer_norm(t[0], {8}, t[1], t[2], 1e-5); }),
      op_case("rms_norm", none, fp32, {m, v},
              [](const T& t) { return at::rms_norm(t[0], {8}, t[1], 1e-5); }),
      op_case("group_norm", none, fp32, {normal({2, 8, 4}), v, v},
              [](const T& t) { return at::group_norm(t[0], 2, t[1], t[2]); }),
      op_case("frobenius_norm.dim", none, fp32, {m},
              [](const T& t) { return at::frobenius_norm(t[0], {1}); }),
      op_case("nuclear_norm", none, fp32, {m}, [](const T& t) { return at::nuclear_norm(t[0]); }),
      op_case("nuclear_norm.dim", none, fp32, {m},
              [](const T& t) {
                return at::nuclear_norm(t[0], {0, 1});
              }),
      op_case("norm.Scalar", none, append_dtype, {m}, [](const T& t) { return at::norm(t[0], 1); }),
      op_case("norm.ScalarOpt_dim", none, append_dtype, {m},
              [](const T& t) { return at::norm(t[0], 2, {0}); }),
      op_case("linalg_vector_norm", none, set_dtype, {m},
              [](const T& t) { return at::linalg_vector_norm(t[0]); }),
      op_case("linalg_matrix_norm", none, set_dtype, {m},
              [](const T& t) { return at::linalg_matrix_norm(t[0], 1); }),
      op_case("linalg_matrix_norm.str_ord", none, set_dtype, {m},
              [](const T& t) { return at::linalg_matrix_norm(t[0], "fro"); }),

      op_case("softmax.int", none, set_dtype, {m}, [](const T& t) { return at::softmax(t[0], 1); }),
      op_case("log_softmax.int", none, set_dtype, {m},
              [](const T& t) { return at::log_softmax(t[0], 1); }),
      op_case("cumprod", none, set_dtype, {m}, [](const T& t) { return at::cumprod(t[0], 0); }),
      op_case("cumsum", none, set_dtype, {m}, [](const T& t) { return at::cumsum(t[0], 0); }),
      op_case("sum", none, set_dtype, {m}, [](const T& t) { return at::sum(t[0]); }),
      op_case("sum.dim_IntList", none, set_dtype, {m},
              [](const T& t) { return at::sum(t[0], {1}); }),
      op_case("prod", fp32, set_dtype, {m}, [](const T& t) { return at::prod(t[0]); }),
      op_case("prod.dim_int", fp32, set_dtype, {m}, [](const T& t) { return at::prod(t[0], 1); }),
      op_case("logsumexp", none, fp32, {m}, [](const T& t) { return at::logsumexp(t[0], {1}); }),
      op_case("trace", fp32, none, {m}, [](const T& t) { return at::trace(t[0]); }),
      op_case("quantile", fp32, none, {m, unit({3})},
              [](const T& t) { return at::quantile(t[0], t[1]); }),
      op_case("quantile.scalar", fp32, none, {m},
              [](const T& t) { return at::quantile(t[0], 0.3); }),
      op_case("nanquantile", fp32, none, {m, unit({3})},
              [](const T& t) { return at::nanquantile(t[0], t[1]); }),
      op_case("nanquantile.scalar", fp32, none, {m},
              [](const T& t) { return at::nanquantile(t[0], 0.3); }),

      op_case("cosine_similarity", none, fp32, {m, m},
              [](const T& t) { return at::cosine_similarity(t[0], t[1]); }),
      op_case("dist", none, fp32, {m, m}, [](const T& t) { return at::dist(t[0], t[1]); }),
      op_case("pdist", none, fp32, {m}, [](const T& t) { return at::pdist(t[0]); }),
      op_case("cdist", fp32, fp32, {m, m}, [](const T& t) { return at::cdist(t[0], t[1]); }),
      op_case("renorm", none, fp32, {m}, [](const T& t) { return at::renorm(t[0], 2, 0, 1.0); }),

      op_case("cat", promote, none, {m, m}, [](const T& t) { return at::cat(t); }),
      op_case("stack", promote, none, {m, m}, [](const T& t) { return at::stack(t); }),
      op_case("index_copy", promote, none, {m, normal({2, 8}), whole({2}, 8)},
              [](const T& t) { return at::index_copy(t[0], 0, t[2], t[1]); }),
      op_case("index_put", none, promote, {m, normal({2, 8}), whole({2}, 8)},
              [](const T& t) { return at::index_put(t[0], {t[2]}, t[1]); }),
      op_case("scatter_add", none, promote, {m, m, whole({8, 8}, 8)},
              [](const T& t) { return at::scatter_add(t[0], 0, t[2], t[1]); }),
      op_case("addcdiv", none, promote, {m, m, u},
              [](const T& t) { return at::addcdiv(t[0], t[1], t[2]); }),
      op_case("addcmul", none, promote, {m, m, m},
              [](const T& t) { return at::addcmul(t[0], t[1], t[2]); }),
      op_case("atan2", none, promote, {m, u}, [](const T& t) { return at::atan2(t[0], t[1]); }),
      op_case("bilinear", none, promote,
              {normal({1, 2}), normal({1, 2}), normal({1, 2, 2}), normal({1})},
              [](const T& t) { return at::bilinear(t[0], t[1], t[2], t[3]); }),
      op_case("cross", none, promote, {normal({3}), normal({3})},
              [](const T& t) { return at::cross(t[0], t[1]); }),
      op_case("dot", none, promote, {v, v}, [](const T& t) { return at::dot(t[0], t[1]); }),
      op_case("vdot", none, promote, {v, v}, [](const T& t) { return at::vdot(t[0], t[1]); }),
      op_case("tensordot", none, promote, {normal({2, 2, 2}), normal({2, 2, 2})},
              [](const T& t) {
                return at::tensordot(t[0], t[1], {1, 2}, {0, 1});
              }),
  };
}

}  // namespace halfstep::testing
