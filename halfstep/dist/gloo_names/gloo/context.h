// LibTorch's ProcessGroupGloo.hpp includes five headers of Gloo, which no LibTorch has with it,
// though Gloo itself is in its libraries. It asks little of them: the names of classes that it
// holds by pointer. The five files of this folder have these names and no more, and only
// gloo_backend.cpp sees them. No object of these classes is made, copied or looked into here.
#pragma once
#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
