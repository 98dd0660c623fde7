#include "halfstep/halfstep.h"

#include <iostream>

int main() {
  std::cout << "halfstep " << halfstep::version() << " on LibTorch " << halfstep::torch_version()
            << " uses " << halfstep::describe_device(halfstep::parse_device("auto")) << "\n";
}
