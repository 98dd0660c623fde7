// The main of tests on the pretended device.
#include <iostream>

#include "tests/pretended_cuda/pretended_cuda.h"
#include "tests/support/devices.h"
#include <gtest/gtest.h>

int main(int argc, char** argv) {
  halfstep::testing::pretend_cuda();  // before tests are listed: some ask for CUDA then
  ::testing::InitGoogleTest(&argc, argv);
  halfstep::testing::cuda_is_pretended() = true;
  std::cerr << "cuda:0 is pretended: its memory is the host's, its kernels are the CPU's\n";
  return RUN_ALL_TESTS();
}
