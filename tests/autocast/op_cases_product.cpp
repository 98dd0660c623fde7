#include <torch/types.h>

#include "tests/autocast/op_cases.h"

namespace halfstep::testing {

using enum Policy;
using T = Tensors;

std::vector<OpCase> product_cases() {
  const auto m = normal({8, 8});
  const auto v = normal({8});
  const auto b = normal({8, 8, 8});
  const auto conv1 = std::vector{normal({2, 4, 8}), normal({6, 4, 3}), normal({6})};
  const auto conv2 = std::vector{normal({2, 4, 8, 8}), normal({6, 4, 3, 3}), normal({6})};
  const auto conv3 = std::vector{normal({2, 4, 5, 5, 5}), normal({6, 4, 3, 3, 3}), normal({6})};
  const auto transposed1 = std::vector{normal({2, 4, 8}), normal({4, 6, 3}), normal({6})};
  const auto transposed2 = std::vector{normal({2, 4, 8, 8}), normal({4, 6, 3, 3}), normal({6})};
  const auto transposed3 =
      std::vector{normal({2, 4, 5, 5, 5}), normal({4, 6, 3, 3, 3}), normal({6})};
  // input, state(s), weights and biases of a cell with 8 units
  const auto cell = [](int64_t gates, int states) {
    std::vector<Input> inputs(1 + states, normal({8, 8}));
    inputs.insert(inputs.end(), 2, normal({8 * gates, 8}));
    inputs.insert(inputs.end(), 2, normal({8 * gates}));
    return inputs;
  };
  const auto attention = std::vector(3, normal({2, 4, 16, 16}));

  std::vector<OpCase> cases{
      op_case("conv1d", lower, lower, conv1,
              [](const T& t) { return at::conv1d(t[0], t[1], t[2]); }),
      op_case("conv1d.padding", lower, none, conv1,
              [](const T& t) { return at::conv1d(t[0], t[1], t[2], 1, "same"); }),
      op_case("conv2d", lower, lower, conv2,
              [](const T& t) { return at::conv2d(t[0], t[1], t[2]); }),
      op_case("conv2d.padding", lower, none, conv2,
              [](const T& t) { return at::conv2d(t[0], t[1], t[2], 1, "same"); }),
      op_case("conv3d", lower, lower, conv3,
              [](const T& t) { return at::conv3d(t[0], t[1], t[2]); }),
      op_case("conv3d.padding", lower, none, conv3,
              [](const T& t) { return at::conv3d(t[0], t[1], t[2], 1, "same"); }),
      op_case("conv_transpose1d", lower, lower, transposed1,
              [](const T& t) { return at::conv_transpose1d(t[0], t[1], t[2]); }),
      op_case("conv_transpose2d.input", lower, lower, transposed2,
              [](const T& t) { return at::conv_transpose2d(t[0], t[1], t[2]); }),
      op_case("conv_transpose3d.input", lower, lower, transposed3,
              [](const T& t) { return at::conv_transpose3d(t[0], t[1], t[2]); }),
      op_case("conv_tbc", lower, lower, {normal({10, 7, 3}), normal({5, 3, 5}), normal({5})},
              [](const T& t) { return at::conv_tbc(t[0], t[1], t[2], 0); }),
      op_case("_convolution.deprecated", lower, lower, conv2,
              [](const T& t) {
                return at::_convolution(t[0], t[1], t[2], {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1,
                                        false, true, true);
              }),
      op_case("_convolution", none, lower, conv2,
              [](const T& t) {
                return at::_convolution(t[0], t[1], t[2], {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1,
                                        false, true, true, true);
              }),
      op_case("convolution", none, lower, conv2,
              [](const T& t) {
                return at::convolution(t[0], t[1], t[2], {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1);
              }),
      op_case("mm", lower, lower, {m, m}, [](const T& t) { return at::mm(t[0], t[1]); }),
      op_case("bmm", lower, lower, {b, b}, [](const T& t) { return at::bmm(t[0], t[1]); }),
      op_case("matmul", lower, lower, {m, m}, [](const T& t) { return at::matmul(t[0], t[1]); }),
      op_case("linear", lower, lower, {m, m, v},
              [](const T& t) { return at::linear(t[0], t[1], t[2]); }),
      op_case("addmm", lower, lower, {m, m, m},
              [](const T& t) { return at::addmm(t[0], t[1], t[2]); }),
      op_case("_addmm_activation", lower, none, {v, m, m},
              [](const T& t) { return at::_addmm_activation(t[0], t[1], t[2], 1, 1, true); }),
      op_case("addbmm", lower, lower, {m, b, b},
              [](const T& t) { return at::addbmm(t[0], t[1], t[2]); }),
      op_case("baddbmm", lower, lower, {b, b, b},
              [](const T& t) { return at::baddbmm(t[0], t[1], t[2]); }),
      op_case("addmv", none, lower, {v, m, v},
              [](const T& t) { return at::addmv(t[0], t[1], t[2]); }),
      op_case("addr", none, lower, {m, v, v},
              [](const T& t) { return at::addr(t[0], t[1], t[2]); }),
      op_case("mv", none, lower, {m, v}, [](const T& t) { return at::mv(t[0], t[1]); }),
      op_case("einsum", none, lower, {normal({2, 3, 4, 5}), normal({2, 6, 4, 5})},
              [](const T& t) { return at::einsum("bkhd,bqhd->bqkh", t); }),
      op_case("chain_matmul", none, lower, {m, m, m},
              [](const T& t) { return at::chain_matmul(t); }),
      op_case("linalg_multi_dot", none, lower, {m, m, m},
              [](const T& t) { return at::linalg_multi_dot(t); }),
      op_case("linalg_vecdot", lower, lower, {m, m},
              [](const T& t) { return at::linalg_vecdot(t[0], t[1]); }),
      op_case("prelu", lower, lower, {v, normal({1})},
              [](const T& t) { return at::prelu(t[0], t[1]); }),
      op_case("scaled_dot_product_attention", lower, lower, attention,
              [](const T& t) { return at::scaled_dot_product_attention(t[0], t[1], t[2]); }),
      op_case("_native_multi_head_attention", lower, none,
              {b, b, b, normal({24, 8}), normal({24}), m, v},
              [](const T& t) {
                return at::_native_multi_head_attention(t[0], t[1], t[2], 8, 4, t[3], t[4], t[5],
                                                        t[6]);
              }),
      op_case("lstm_cell", none, lower, cell(4, 2),
              [](const T& t) {
                return at::lstm_cell(t[0], T{t[1], t[2]}, t[3], t[4], t[5], t[6]);
              }),
      op_case("gru_cell", none, lower, cell(3, 1),
              [](const T& t) { return at::gru_cell(t[0], t[1], t[2], t[3], t[4], t[5]); }),
      op_case("rnn_tanh_cell", none, lower, cell(1, 1),
              [](const T& t) { return at::rnn_tanh_cell(t[0], t[1], t[2], t[3], t[4], t[5]); }),
      op_case("rnn_relu_cell", none, lower, cell(1, 1),
              [](const T& t) { return at::rnn_relu_cell(t[0], t[1], t[2], t[3], t[4], t[5]); }),
  };

  // One LSTM layer: mode 2, hidden size 8.
  auto lstm_layer = op_case(
      "mkldnn_rnn_layer", lower, none,
      {b, normal({32, 8}), normal({32, 8}), normal({32}), normal({32}), m, m}, [](const T& t) {
        const auto outputs = at::mkldnn_rnn_layer(t[0], t[1], t[2], t[3], t[4], t[5], t[6], false,
                                                  {}, 2, 8, 1, true, false, false, false);
        return T{std::get<0>(outputs), std::get<1>(outputs), std::get<2>(outputs)};
      });
  lstm_layer.needs_hardware = true;
  cases.push_back(std::move(lstm_layer));

  std::vector<OpCase> cuda_only{
      op_case("_thnn_fused_lstm_cell", none, lower, {normal({8, 32}), normal({8, 32}), m},
              [](const T& t) { return at::_thnn_fused_lstm_cell(t[0], t[1], t[2]); }),
      op_case("_thnn_fused_gru_cell", none, lower, {normal({8, 24}), normal({8, 24}), m},
              [](const T& t) { return at::_thnn_fused_gru_cell(t[0], t[1], t[2]); }),
      op_case("_scaled_dot_product_flash_attention", none, lower, attention,
              [](const T& t) {
                return T{std::get<0>(at::_scaled_dot_product_flash_attention(t[0], t[1], t[2]))};
              }),
      op_case(
          "cudnn_convolution", none, lower, {normal({2, 4, 8, 8}), normal({6, 4, 3, 3})},
          [](const T& t) {
            return at::cudnn_convolution(t[0], t[1], {0, 0}, {1, 1}, {1, 1}, 1, false, true, true);
          }),
      op_case("cudnn_convolution_transpose", none, lower,
              {normal({2, 4, 8, 8}), normal({4, 6, 3, 3})},
              [](const T& t) {
                return at::cudnn_convolution_transpose(t[0], t[1], {0, 0}, {0, 0}, {1, 1}, {1, 1},
                                                       1, false, true, true);
              }),
  };
  for (auto& one : cuda_only) {
    one.cuda_only = true;
    cases.push_back(std::move(one));
  }
  return cases;
}

}  // namespace halfstep::testing
