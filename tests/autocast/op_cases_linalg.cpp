#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/types.h>

#include "tests/autocast/op_cases.h"

namespace halfstep::testing {

using enum Policy;
using T = Tensors;

namespace {

OpCase fft(const std::string& name, at::Tensor (*transform)(const at::Tensor&)) {
  return op_case("fft_" + name, fp32, none, {normal({4, 8, 8})},
                 [transform](const T& t) { return transform(t[0]); });
}

}  // namespace

std::vector<OpCase> linalg_cases() {
  using At = const at::Tensor&;
  const auto m = normal({8, 8});
  const auto d = definite(8);
  const auto two = normal({8, 2});
  return {
      op_case("_lu_with_info", fp32, none, {d}, [](const T& t) { return at::_lu_with_info(t[0]); }),
      op_case("cholesky_inverse", fp32, none, {d},
              [](const T& t) { return at::cholesky_inverse(t[0]); }),
      op_case("cholesky_solve", fp32, none, {two, d},
              [](const T& t) { return at::cholesky_solve(t[0], t[1]); }),
      op_case("geqrf", fp32, none, {m}, [](const T& t) { return at::geqrf(t[0]); }),
      op_case("inverse", fp32, none, {d}, [](const T& t) { return at::inverse(t[0]); }),
      op_case("linalg_cholesky", fp32, none, {d},
              [](const T& t) { return at::linalg_cholesky(t[0]); }),
      op_case("linalg_cholesky_ex", fp32, none, {d},
              [](const T& t) { return at::linalg_cholesky_ex(t[0]); }),
      op_case("linalg_cond", fp32, none, {d}, [](const T& t) { return at::linalg_cond(t[0]); }),
      op_case("linalg_cond.p_str", fp32, none, {d},
              [](const T& t) { return at::linalg_cond(t[0], "fro"); }),
      op_case("linalg_eig", fp32, none, {m}, [](const T& t) { return at::linalg_eig(t[0]); }),
      op_case("linalg_eigh", fp32, none, {d}, [](const T& t) { return at::linalg_eigh(t[0]); }),
      op_case("linalg_eigvals", fp32, none, {m},
              [](const T& t) { return at::linalg_eigvals(t[0]); }),
      op_case("linalg_eigvalsh", fp32, none, {d},
              [](const T& t) { return at::linalg_eigvalsh(t[0]); }),
      op_case("linalg_householder_product", fp32, none, {m, normal({8})},
              [](const T& t) { return at::linalg_householder_product(t[0], t[1]); }),
      op_case("linalg_inv", fp32, none, {d}, [](const T& t) { return at::linalg_inv(t[0]); }),
      op_case("linalg_inv_ex", fp32, none, {d}, [](const T& t) { return at::linalg_inv_ex(t[0]); }),
      op_case("linalg_lstsq", fp32, none, {d, two},
              [](const T& t) { return at::linalg_lstsq(t[0], t[1]); }),
      op_case("linalg_matrix_rank", fp32, none, {d},
              [](const T& t) { return at::linalg_matrix_rank(t[0], 0.1); }),
      op_case("linalg_matrix_rank.atol_rtol_float", fp32, none, {d},
              [](const T& t) { return at::linalg_matrix_rank(t[0], std::optional(0.1), 0.1); }),
      op_case("linalg_matrix_rank.atol_rtol_tensor", fp32, none, {d, unit({})},
              [](const T& t) {
                return at::linalg_matrix_rank(t[0], std::optional(t[1]), std::optional(t[1]));
              }),
      op_case("linalg_matrix_rank.tol_tensor", fp32, none, {d, unit({})},
              [](const T& t) { return at::linalg_matrix_rank(t[0], t[1]); }),
      // No such function in the headers of LibTorch 2.11.
      op_case("linalg_matrix_sqrth", fp32, fp32, {d},
              [](const T& t) {
                static const auto op =
                    c10::Dispatcher::singleton().findSchemaOrThrow("aten::linalg_matrix_sqrth", "");
                torch::jit::Stack stack{t[0]};
                op.callBoxed(stack);
                return stack.at(0).toTensor();
              }),
      op_case("linalg_qr", fp32, none, {m}, [](const T& t) { return at::linalg_qr(t[0]); }),
      op_case("linalg_solve", fp32, none, {d, two},
              [](const T& t) { return at::linalg_solve(t[0], t[1]); }),
      op_case("linalg_svd", fp32, none, {m}, [](const T& t) { return at::linalg_svd(t[0]); }),
      op_case("linalg_svdvals", fp32, none, {m},
              [](const T& t) { return at::linalg_svdvals(t[0]); }),
      op_case("linalg_tensorinv", fp32, none, {d},
              [](const T& t) { return at::linalg_tensorinv(t[0], 1); }),
      op_case("linalg_tensorsolve", fp32, none, {d, normal({8})},
              [](const T& t) { return at::linalg_tensorsolve(t[0], t[1]); }),
      op_case("lu_solve", fp32, none, {two, d},
              [](const T& t) {
                const auto pivots =
                    torch::arange(1, 9, torch::dtype(torch::kInt).device(t[1].device()));
                return at::lu_solve(t[0], t[1], pivots);
              }),
      op_case("orgqr", fp32, none, {m, normal({8})},
              [](const T& t) { return at::orgqr(t[0], t[1]); }),
      op_case("ormqr", fp32, none, {m, normal({8}), two},
              [](const T& t) { return at::ormqr(t[0], t[1], t[2]); }),
      op_case("pinverse", fp32, none, {d}, [](const T& t) { return at::pinverse(t[0]); }),
      op_case("svd", fp32, none, {m}, [](const T& t) { return at::svd(t[0]); }),
      op_case("triangular_solve", fp32, none, {two, d},
              [](const T& t) { return at::triangular_solve(t[0], t[1]); }),

      fft("fft", [](At x) { return at::fft_fft(x); }),
      fft("fft2", [](At x) { return at::fft_fft2(x); }),
      fft("fftn", [](At x) { return at::fft_fftn(x); }),
      fft("hfft", [](At x) { return at::fft_hfft(x); }),
      fft("ifft", [](At x) { return at::fft_ifft(x); }),
      fft("ifft2", [](At x) { return at::fft_ifft2(x); }),
      fft("ifftn", [](At x) { return at::fft_ifftn(x); }),
      fft("ihfft", [](At x) { return at::fft_ihfft(x); }),
      fft("irfft", [](At x) { return at::fft_irfft(x); }),
      fft("irfft2", [](At x) { return at::fft_irfft2(x); }),
      fft("irfftn", [](At x) { return at::fft_irfftn(x); }),
      fft("rfft", [](At x) { return at::fft_rfft(x); }),
      fft("rfft2", [](At x) { return at::fft_rfft2(x); }),
      fft("rfftn", [](At x) { return at::fft_rfftn(x); }),
      op_case("stft", fp32, none, {normal({64}), unit({16})},
              [](const T& t) { return at::stft(t[0], 16, 4, 16, t[1], false, true, true); }),
      op_case("stft.center", fp32, none, {normal({64}), unit({16})},
              [](const T& t) {
                return at::stft(t[0], 16, 4, 16, t[1], true, "reflect", false, true, true);
              }),
  };
}

}  // namespace halfstep::testing
