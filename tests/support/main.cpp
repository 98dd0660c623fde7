#include <iostream>

#include <torch/cuda.h>

#include <gtest/gtest.h>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests) && !torch::cuda::is_available())
    std::cerr << "no CUDA device works here: every CUDA test below skips\n";
  return RUN_ALL_TESTS();
}
