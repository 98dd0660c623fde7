#include <torch/types.h>

#include "tests/autocast/op_cases.h"

namespace halfstep::testing {

using enum Policy;
using T = Tensors;

std::vector<OpCase> image_cases() {
  const auto line = normal({2, 3, 8});
  const auto image = normal({2, 3, 8, 8});
  const auto volume = normal({2, 3, 8, 8, 8});
  const auto grid = normal({2, 5, 5, 2});
  // A max pool's values and where they came from.
  const auto unpool2d = [](const T& t) {
    const auto pooled = at::max_pool2d_with_indices(t[0], 2);
    return at::max_unpool2d(std::get<0>(pooled), std::get<1>(pooled), {8, 8});
  };
  const auto unpool3d = [](const T& t) {
    const auto pooled = at::max_pool3d_with_indices(t[0], 2);
    return at::max_unpool3d(std::get<0>(pooled), std::get<1>(pooled), {8, 8, 8}, {2, 2, 2},
                            {0, 0, 0});
  };
  return {
      op_case("adaptive_avg_pool3d", fp32, none, {volume},
              [](const T& t) {
                return at::adaptive_avg_pool3d(t[0], {3, 3, 3});
              }),
      op_case("adaptive_max_pool3d", fp32, none, {volume},
              [](const T& t) {
                return at::adaptive_max_pool3d(t[0], {3, 3, 3});
              }),
      op_case("avg_pool3d", fp32, none, {volume},
              [](const T& t) {
                return at::avg_pool3d(t[0], {3, 3, 3});
              }),
      op_case("max_pool3d", fp32, none, {volume},
              [](const T& t) {
                return at::max_pool3d(t[0], {2, 2, 2});
              }),
      op_case("fractional_max_pool2d", fp32, none, {image, unit({2, 3, 2})},
              [](const T& t) {
                return at::fractional_max_pool2d(t[0], {2, 2}, {3, 3}, t[1]);
              }),
      op_case("fractional_max_pool3d", fp32, none, {volume, unit({2, 3, 3})},
              [](const T& t) {
                return at::fractional_max_pool3d(t[0], {2, 2, 2}, {3, 3, 3}, t[1]);
              }),
      op_case("max_unpool2d", fp32, none, {image}, unpool2d),
      op_case("max_unpool3d", fp32, none, {volume}, unpool3d),
      op_case("reflection_pad1d", fp32, none, {line},
              [](const T& t) {
                return at::reflection_pad1d(t[0], {3, 3});
              }),
      op_case("reflection_pad2d", fp32, none, {image},
              [](const T& t) {
                return at::reflection_pad2d(t[0], {3, 3, 3, 3});
              }),
      op_case("replication_pad1d", fp32, none, {line},
              [](const T& t) {
                return at::replication_pad1d(t[0], {3, 3});
              }),
      op_case("replication_pad2d", fp32, none, {image},
              [](const T& t) {
                return at::replication_pad2d(t[0], {3, 3, 3, 3});
              }),
      op_case("replication_pad3d", fp32, none, {volume},
              [](const T& t) {
                return at::replication_pad3d(t[0], {3, 3, 3, 3, 3, 3});
              }),
      op_case("grid_sampler", fp32, promote, {image, grid},
              [](const T& t) { return at::grid_sampler(t[0], t[1], 0, 0, false); }),
      op_case("grid_sampler_2d", fp32, none, {image, grid},
              [](const T& t) { return at::grid_sampler_2d(t[0], t[1], 0, 0, false); }),
      op_case(
          "_grid_sampler_2d_cpu_fallback", fp32, none, {image, grid},
          [](const T& t) { return at::_grid_sampler_2d_cpu_fallback(t[0], t[1], 0, 0, false); }),
      op_case("grid_sampler_3d", fp32, none, {volume, normal({2, 4, 4, 4, 3})},
              [](const T& t) { return at::grid_sampler_3d(t[0], t[1], 0, 0, false); }),

      op_case("upsample_nearest1d", none, fp32, {line},
              [](const T& t) { return at::upsample_nearest1d(t[0], {11}); }),
      op_case("upsample_nearest2d", none, fp32, {image},
              [](const T& t) {
                return at::upsample_nearest2d(t[0], {11, 11});
              }),
      op_case("upsample_nearest3d", none, fp32, {volume},
              [](const T& t) {
                return at::upsample_nearest3d(t[0], {11, 11, 11});
              }),
      op_case("_upsample_nearest_exact1d", none, fp32, {line},
              [](const T& t) { return at::_upsample_nearest_exact1d(t[0], {11}); }),
      op_case("_upsample_nearest_exact2d", none, fp32, {image},
              [](const T& t) {
                return at::_upsample_nearest_exact2d(t[0], {11, 11});
              }),
      op_case("_upsample_nearest_exact3d", none, fp32, {volume},
              [](const T& t) {
                return at::_upsample_nearest_exact3d(t[0], {11, 11, 11});
              }),
      op_case("upsample_linear1d", none, fp32, {line},
              [](const T& t) { return at::upsample_linear1d(t[0], {11}, false); }),
      op_case("upsample_bilinear2d", none, fp32, {image},
              [](const T& t) {
                return at::upsample_bilinear2d(t[0], {11, 11}, false);
              }),
      op_case("_upsample_bilinear2d_aa", none, fp32, {image},
              [](const T& t) {
                return at::_upsample_bilinear2d_aa(t[0], {11, 11}, false);
              }),
      op_case("upsample_trilinear3d", none, fp32, {volume},
              [](const T& t) {
                return at::upsample_trilinear3d(t[0], {11, 11, 11}, false);
              }),
      op_case("upsample_bicubic2d", none, fp32, {image},
              [](const T& t) {
                return at::upsample_bicubic2d(t[0], {11, 11}, false);
              }),
      op_case("_upsample_bicubic2d_aa", none, fp32, {image},
              [](const T& t) {
                return at::_upsample_bicubic2d_aa(t[0], {11, 11}, false);
              }),
  };
}

}  // namespace halfstep::testing
