#include "halfstep/precision/tree.h"

#include "halfstep/core/error.h"

#include <limits>
#include <map>
#include <unordered_map>

#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

class Tree : public DeviceTest {
 protected:
  at::Tensor value(double number, c10::ScalarType dtype = torch::kFloat) const {
    return torch::full({2}, number, torch::device(device()).dtype(dtype));
  }
  at::Tensor flag(bool on) const {
    return torch::full({}, on, torch::device(device()).dtype(torch::kBool));
  }
};
HALFSTEP_ON_EACH_DEVICE(Tree);

// Nothing would own what a TensorList in a container were mapped to.
static_assert(detail::OwnsItsTensors<at::TensorList> && detail::OwnsItsTensors<int>);
static_assert(!detail::OwnsItsTensors<std::vector<at::TensorList>>);
static_assert(!detail::OwnsItsTensors<std::pair<at::Tensor, std::optional<at::TensorList>>>);
static_assert(!detail::OwnsItsTensors<std::map<std::string, std::tuple<int, at::TensorList>>>);

TEST_P(Tree, AllFinite) {
  using Pairs = std::map<std::string, std::vector<at::Tensor>>;
  EXPECT_TRUE(all_finite(Pairs{}).item<bool>());
  EXPECT_TRUE(all_finite(std::vector<at::Tensor>{}).item<bool>());
  EXPECT_TRUE(all_finite(7).item<bool>()) << "no tensor at all";
  const auto clean = [&] {
    return Pairs{{"a", {value(1), value(2)}},
                 {"b", {value(3, torch::kHalf), value(4, torch::kLong), {}}}};
  };
  const auto all = all_finite(clean());
  EXPECT_EQ(all.dim(), 0);
  EXPECT_EQ(all.scalar_type(), torch::kBool);
  EXPECT_EQ(all.device(), value(1).device());
  EXPECT_TRUE(all.item<bool>());
  using Limits = std::numeric_limits<double>;
  for (const double bad : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()}) {
    for (const auto& [name, index] : {std::pair{"a", 0}, {"a", 1}, {"b", 0}}) {
      auto tree = clean();
      tree.at(name).at(static_cast<size_t>(index))[1] = bad;
      EXPECT_FALSE(all_finite(tree).item<bool>()) << bad << " in " << name << index;
    }
  }
}

TEST_P(Tree, SelectTree) {
  const std::tuple a{value(1), std::vector<at::Tensor>{value(2)}, std::string("of a"),
                     at::Tensor()};
  const std::tuple b{value(3), std::vector<at::Tensor>{value(4)}, std::string("of b"),
                     at::Tensor()};
  const auto [first_of_a, rest_of_a, text_of_a, none_of_a] = select_tree(flag(true), a, b);
  expect_same_bits(first_of_a, value(1));
  expect_same_bits(rest_of_a[0], value(2));
  EXPECT_FALSE(none_of_a.defined());
  const auto [first_of_b, rest_of_b, text_of_b, none_of_b] = select_tree(flag(false), a, b);
  expect_same_bits(first_of_b, value(3));
  expect_same_bits(rest_of_b[0], value(4));
  EXPECT_EQ(text_of_b, "of a");
}

TEST_P(Tree, SelectTreeByKey) {
  std::unordered_map<std::string, at::Tensor> a, b;
  for (int i = 0; i < 20; ++i) a[std::to_string(i)] = value(i);
  for (int i = 19; i >= 0; --i) b[std::to_string(i)] = value(100 + i);  // another order inside
  const auto chosen = select_tree(flag(false), a, b);
  for (int i = 0; i < 20; ++i) expect_same_bits(chosen.at(std::to_string(i)), value(100 + i));
}

TEST_P(Tree, SelectLeavesOutAStep) {
  const std::vector<at::Tensor> before{value(1)}, stepped{value(2)};
  EXPECT_EQ(select_tree(all_finite(stepped), stepped, before)[0][0].item<float>(), 2);
  const std::vector<at::Tensor> broken{value(std::numeric_limits<double>::infinity())};
  EXPECT_EQ(select_tree(all_finite(broken), broken, before)[0][0].item<float>(), 1);
}

TEST_P(Tree, SelectTreeRejectsNonScalar) {
  const std::vector<at::Tensor> tree{value(1)};
  EXPECT_ERROR(select_tree(flag(true).expand({2}), tree, tree), UsageError, "[select_tree]",
               "0-dim bool tensor", "1 dimensions of bool");
  EXPECT_ERROR(select_tree(value(1)[0], tree, tree), UsageError, "0 dimensions of float32");
  EXPECT_ERROR(select_tree(at::Tensor(), tree, tree), UsageError, "an undefined one");
}

TEST_P(Tree, SelectTreeRejectsUnlikeTrees) {
  const auto on = flag(true);
  const std::vector<at::Tensor> one{value(1)}, two{value(1), value(2)};
  EXPECT_ERROR(select_tree(on, one, two), UsageError, "[nested containers]", "same structure");
  using Map = std::map<std::string, at::Tensor>;
  EXPECT_ERROR(select_tree(on, Map{{"a", value(1)}}, Map{{"b", value(1)}}), UsageError,
               "same structure");
  using Maybe = std::optional<at::Tensor>;
  EXPECT_ERROR(select_tree(on, Maybe(value(1)), Maybe()), UsageError, "same structure");
  EXPECT_ERROR(select_tree(on, value(1), at::Tensor()), UsageError, "same structure");
  EXPECT_ERROR(select_tree(on, value(1), value(1, torch::kHalf)), UsageError, "[select_tree]",
               "same shape, dtype and device");
  EXPECT_ERROR(select_tree(on, value(1), value(1)[0]), UsageError, "same shape");
}

}  // namespace halfstep::testing
