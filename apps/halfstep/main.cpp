#include "halfstep/train/main.h"

int main(int argc, char** argv) {
  return halfstep::train::main(argc, argv);
}
