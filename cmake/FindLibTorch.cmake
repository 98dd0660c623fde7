# Finds LibTorch without the whole CUDA toolkit that torch's own TorchConfig.cmake asks for.
#
# Looks, in this order, at
#   LIBTORCH_ROOT     (CMake or environment variable) a libtorch folder, or the torch folder of a Python environment
#   CMAKE_PREFIX_PATH each entry as a libtorch folder, or as torch/share/cmake
#   the project's own virtual environment (.venv, made by `make setup`)
#   the torch that `python3` would import
#
# Defines LibTorch_FOUND, LibTorch_VERSION, LibTorch_ROOT, LibTorch_HAS_CUDA and the targets
#   LibTorch::cpu    headers, libtorch_cpu and libc10
#   LibTorch::cuda   the same with libtorch_cuda and libc10_cuda (only where the LibTorch has them)

set(_candidates "")
foreach(_root IN LISTS LIBTORCH_ROOT)
  list(APPEND _candidates "${_root}|LIBTORCH_ROOT")
endforeach()
if(DEFINED ENV{LIBTORCH_ROOT})
  list(APPEND _candidates "$ENV{LIBTORCH_ROOT}|the environment variable LIBTORCH_ROOT")
endif()
set(_prefixes ${CMAKE_PREFIX_PATH})
if(DEFINED ENV{CMAKE_PREFIX_PATH})
  string(REPLACE ":" ";" _env_prefixes "$ENV{CMAKE_PREFIX_PATH}")
  list(APPEND _prefixes ${_env_prefixes})
endif()
foreach(_prefix IN LISTS _prefixes)
  list(APPEND _candidates "${_prefix}|CMAKE_PREFIX_PATH" "${_prefix}/libtorch|CMAKE_PREFIX_PATH")
  if(_prefix MATCHES "/share/cmake(/Torch)?/?$")
    string(REGEX REPLACE "/share/cmake(/Torch)?/?$" "" _prefix "${_prefix}")
    list(APPEND _candidates "${_prefix}|CMAKE_PREFIX_PATH")
  endif()
endforeach()
file(GLOB _own "${CMAKE_CURRENT_LIST_DIR}/../.venv/lib/python3*/site-packages/torch")
if(_own)
  list(APPEND _candidates "${_own}|the project's .venv")
endif()
find_program(_python NAMES python3 python)
if(_python)
  # find_spec does not import torch, so this works for an installation that lacks torch's Python dependencies.
  execute_process(
    COMMAND ${_python} -c "import importlib.util as u; s = u.find_spec('torch'); print(list(s.submodule_search_locations)[0] if s else '')"
    OUTPUT_VARIABLE _python_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(_python_torch)
    list(APPEND _candidates "${_python_torch}|${_python}")
  endif()
endif()
unset(_python CACHE)

set(LibTorch_ROOT "")
set(_refused "")
foreach(_candidate IN LISTS _candidates)
  string(REPLACE "|" ";" _candidate "${_candidate}")
  list(GET _candidate 0 _root)
  list(GET _candidate 1 _origin)
  if(NOT EXISTS "${_root}/include/torch/csrc/api/include/torch/torch.h")
    if(_origin MATCHES "LIBTORCH_ROOT")
      message(FATAL_ERROR "[FindLibTorch] ${_origin} must name a libtorch folder (the one that holds include/ and lib/), but "
                          "got '${_root}'; unpack libtorch there or unset it")
    endif()
    continue()
  endif()
  set(_version "")
  foreach(_header headeronly/version.h csrc/api/include/torch/version.h)
    if(NOT _version AND EXISTS "${_root}/include/torch/${_header}")
      file(STRINGS "${_root}/include/torch/${_header}" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      if(_lines)
        string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
        list(JOIN _numbers "." _version)
      endif()
    endif()
  endforeach()
  if(_version AND NOT _version VERSION_LESS "${LibTorch_FIND_VERSION}")
    set(LibTorch_ROOT "${_root}")
    set(LibTorch_VERSION "${_version}")
    break()
  endif()
  string(APPEND _refused "\n  version ${_version} in ${_root} (found through ${_origin})")
  # The first LibTorch found is the one the user means: an older one is an error, not passed over.
  break()
endforeach()

if(_refused)
  message(FATAL_ERROR "[FindLibTorch] halfstep needs LibTorch ${LibTorch_FIND_VERSION} or newer, but found${_refused}\n"
                      "Upgrade it, or set LIBTORCH_ROOT to another one, or run `make setup` in a clone of halfstep.")
endif()

if(NOT LibTorch_ROOT AND LibTorch_FIND_REQUIRED)
  message(FATAL_ERROR "[FindLibTorch] halfstep needs LibTorch ${LibTorch_FIND_VERSION} or newer, but none was found\n"
                      "Set LIBTORCH_ROOT or CMAKE_PREFIX_PATH to one, or `pip install torch`, or run `make setup` in a clone of halfstep.")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_ROOT VERSION_VAR LibTorch_VERSION)

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  # libtorch_cpu of a CUDA wheel names CUDA's small runtime libraries, which lie in sibling packages.
  file(GLOB _nvidia "${LibTorch_ROOT}/../nvidia/*/lib")
  set(_rpath_link "")
  foreach(_folder IN LISTS _nvidia)
    list(APPEND _rpath_link "LINKER:-rpath-link,${_folder}")
  endforeach()

  foreach(_library c10 torch_cpu c10_cuda torch_cuda)
    if(EXISTS "${LibTorch_ROOT}/lib/lib${_library}.so")
      add_library(LibTorch::${_library} SHARED IMPORTED GLOBAL)
      set_target_properties(LibTorch::${_library} PROPERTIES IMPORTED_LOCATION "${LibTorch_ROOT}/lib/lib${_library}.so")
    endif()
  endforeach()
  if(NOT TARGET LibTorch::torch_cpu OR NOT TARGET LibTorch::c10)
    message(FATAL_ERROR "[FindLibTorch] ${LibTorch_ROOT}/lib must hold libtorch_cpu.so and libc10.so, but does not; "
                        "it is not a whole LibTorch: install it again")
  endif()

  # One OpenMP run-time library in the process: torch's own where it brings one.
  set(_openmp "")
  file(GLOB _gomp "${LibTorch_ROOT}/lib/libgomp*.so*" "${LibTorch_ROOT}/../torch.libs/libgomp*.so*")
  if(_gomp)
    list(GET _gomp 0 _gomp)
    add_library(LibTorch::gomp SHARED IMPORTED GLOBAL)
    set_target_properties(LibTorch::gomp PROPERTIES IMPORTED_LOCATION "${_gomp}")
    set(_openmp LibTorch::gomp)
  else()
    find_package(OpenMP REQUIRED COMPONENTS CXX)
    set(_openmp OpenMP::OpenMP_CXX)
  endif()

  # at::parallel_for in our own files is serial without -fopenmp, in silence. The thread sanitizer can't follow libgomp.
  set(_compile_openmp "$<$<COMPILE_LANGUAGE:CXX>:-fopenmp>")
  if(HALFSTEP_SANITIZE STREQUAL "thread")
    set(_compile_openmp "")
  endif()

  add_library(LibTorch::cpu INTERFACE IMPORTED GLOBAL)
  set_target_properties(LibTorch::cpu PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_ROOT}/include;${LibTorch_ROOT}/include/torch/csrc/api/include"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_COMPILE_OPTIONS "${_compile_openmp}"
    INTERFACE_LINK_OPTIONS "${_rpath_link}"
    INTERFACE_LINK_LIBRARIES "LibTorch::torch_cpu;LibTorch::c10;${_openmp}")

  set(LibTorch_HAS_CUDA FALSE)
  if(TARGET LibTorch::torch_cuda AND TARGET LibTorch::c10_cuda)
    set(LibTorch_HAS_CUDA TRUE)
    add_library(LibTorch::cuda INTERFACE IMPORTED GLOBAL)
    set_target_properties(LibTorch::cuda PROPERTIES
      # Nothing in a program names libtorch_cuda; without the flag the linker drops it, and with it every CUDA kernel.
      INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed,${LibTorch_ROOT}/lib/libtorch_cuda.so,--as-needed"
      INTERFACE_LINK_LIBRARIES "LibTorch::cpu;LibTorch::torch_cuda;LibTorch::c10_cuda")
  endif()
endif()
