# The LibTorch that `make setup` installs where the user has none. The oldest one supported is in cmake/LocateLibTorch.cmake.
torch_pin=2.15.0
cuda_toolkit_pin=13.2.2 # the version torch_pin asks for
