// Each kind of container as input and output of a graph, and what tells one nesting from another.
#include "halfstep/graph.h"

#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <torch/ordered_dict.h>

#include "tests/graph/steps.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::detail::append_tensors;
using halfstep::testing::same_bits;
using torch::Tensor;

/// Gives back what it got, twice as large.
template <class Nest>
struct Twice : Graph<Nest(Nest)> {
  Nest build(const Nest& nest) override {
    auto twice = [](const Tensor& x) { return x.defined() ? x * 2 : Tensor(); };
    return halfstep::detail::map_tensors(twice, nest);
  }
};

template <class Nest>
std::vector<Tensor> tensors_of(const Nest& nest) {
  std::vector<Tensor> tensors;
  append_tensors(nest, tensors);
  return tensors;
}

std::vector<Tensor> twice(std::vector<Tensor> tensors) {
  for (auto& tensor : tensors) tensor = tensor * 2;
  return tensors;
}

/// Four calls of `graph` with one nest, of which so many are replays.
template <class Nest>
void expect_replayed(Twice<Nest>& graph, const Nest& nest, int64_t replays = 2) {
  const auto before = graph.replayed_steps();
  for (int call = 0; call < 4; ++call)
    EXPECT_TRUE(same_bits(twice(tensors_of(nest)), tensors_of(graph(nest)))) << "call " << call;
  EXPECT_EQ(graph.replayed_steps(), before + replays) << graph.last_reason();
}

/// `nest` and then `other`, which `reason` tells apart.
template <class Nest>
void expect_apart(const Nest& nest, const Nest& other, const std::string& reason) {
  Twice<Nest> graph;
  expect_replayed(graph, nest);
  ASSERT_TRUE(same_bits(twice(tensors_of(other)), tensors_of(graph(other))));
  EXPECT_EQ(graph.last_reason(), reason);
  expect_replayed(graph, nest, 4);
}

Tensor ones(int64_t size) {
  return torch::ones({size});
}

TEST(GraphNesting, ContainersOfAFixedSize) {
  Twice<std::tuple<Tensor, std::pair<Tensor, std::array<Tensor, 2>>>> graph;
  expect_replayed(graph, {ones(1), {ones(2), {ones(3), ones(4)}}});
}

TEST(GraphNesting, Lists) {
  expect_apart<std::vector<Tensor>>({ones(1), ones(2)}, {ones(1), ones(2), ones(3)},
                                    "there are 3 input tensors, not 2");
  expect_apart<std::vector<std::vector<Tensor>>>({{ones(1)}, {ones(2)}}, {{ones(1), ones(2)}, {}},
                                                 "inputs are nested otherwise");
}

TEST(GraphNesting, MapsByTheirKeys) {
  expect_apart<std::map<std::string, Tensor>>({{"a", ones(1)}}, {{"b", ones(1)}},
                                              "inputs are nested otherwise");
  expect_apart<std::unordered_map<int, Tensor>>({{1, ones(1)}}, {{2, ones(1)}},
                                                "inputs are nested otherwise");
  torch::OrderedDict<std::string, Tensor> a, b;
  a.insert("a", ones(1));
  b.insert("b", ones(1));
  expect_apart(a, b, "inputs are nested otherwise");
}

TEST(GraphNesting, WhatIsThereOrNot) {
  using Maybe = std::vector<std::optional<Tensor>>;
  expect_apart<Maybe>({ones(1), std::nullopt}, {std::nullopt, ones(1)},
                      "inputs are nested otherwise");
}

TEST(GraphNesting, NothingAtAll) {
  Twice<std::vector<Tensor>> graph;
  expect_replayed(graph, {});
  expect_apart<std::vector<Tensor>>({ones(1)}, {}, "there are 0 input tensors, not 1");
}

TEST(GraphNesting, UndefinedTensorsComeBackUndefined) {
  Twice<std::vector<Tensor>> graph;
  const std::vector<Tensor> some = {ones(1), Tensor(), ones(2)}, all = {ones(1), ones(3), ones(2)};
  for (int call = 0; call < 4; ++call) {
    const auto out = graph(some);
    ASSERT_EQ(out.size(), 3U);
    EXPECT_TRUE(same_bits({ones(1) * 2, ones(2) * 2}, {out[0], out[2]}));
    EXPECT_FALSE(out[1].defined());
  }
  EXPECT_EQ(graph.replayed_steps(), 2);
  EXPECT_TRUE(same_bits(twice(all), graph(all)));
  EXPECT_EQ(graph.last_reason(), "input 1 is float32[3], not undefined");
  graph(some);
  EXPECT_EQ(graph.last_reason(), "");
  // Not to be taken for a number.
  const auto number = torch::ones({});
  EXPECT_TRUE(same_bits({number * 2}, {graph({ones(1), number, ones(2)})[1]}));
  EXPECT_EQ(graph.last_reason(), "input 1 is float32[], not float32[3]");
}

}  // namespace
