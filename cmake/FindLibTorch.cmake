# Finds LibTorch without the whole CUDA toolkit that torch's own TorchConfig.cmake asks for; LocateLibTorch.cmake says where
# it looks.
#
# Defines LibTorch_FOUND, LibTorch_VERSION, LibTorch_ROOT, LibTorch_HAS_CUDA, LibTorch_HAS_OPENMP and the targets
#   LibTorch::cpu    headers, libtorch_cpu and libc10
#   LibTorch::cuda   the same with libtorch_cuda, libc10_cuda and the CUDA run-time library; only where the LibTorch has them
#                    and CUDA's headers are found, else LibTorch_WHY_NO_CUDA says what is missing
# The targets are global and made once; what the variables say about them is kept in properties of LibTorch::cpu.

include("${CMAKE_CURRENT_LIST_DIR}/LocateLibTorch.cmake")
if(NOT LibTorch_ROOT AND LibTorch_FIND_REQUIRED)
  message(FATAL_ERROR "[FindLibTorch] halfstep needs LibTorch ${LibTorch_OLDEST} or newer, but none was found; set LIBTORCH_ROOT "
                      "or CMAKE_PREFIX_PATH to one, make one by `python3 -m venv $HOME/torch && $HOME/torch/bin/pip install torch` "
                      "and set CMAKE_PREFIX_PATH=$HOME/torch, or run `make setup` in a clone of halfstep")
endif()
set(LibTorch_LAST_ROOT "${LibTorch_ROOT}" CACHE INTERNAL "The LibTorch of the last configure")

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_ROOT VERSION_VAR LibTorch_VERSION)
if(NOT LibTorch_FOUND)
  return()
endif()
if(TARGET LibTorch::cpu)
  foreach(_name ROOT HAS_OPENMP HAS_CUDA WHY_NO_CUDA)
    get_target_property(_known_${_name} LibTorch::cpu LibTorch_${_name})
  endforeach()
  if(NOT _known_ROOT STREQUAL LibTorch_ROOT)
    message(FATAL_ERROR "[FindLibTorch] a project must link one LibTorch, but it uses ${_known_ROOT} already and "
                        "${LibTorch_ROOT} was found (through ${LibTorch_ORIGIN}); name the same one everywhere")
  endif()
  foreach(_name HAS_OPENMP HAS_CUDA WHY_NO_CUDA)
    set(LibTorch_${_name} "${_known_${_name}}")
  endforeach()
  return()
endif()

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

# A wheel's libraries need CUDA libraries that lie in sibling packages. They find them at run time by themselves; the linker
# must be told.
file(GLOB _nvidia_libs "${LibTorch_ROOT}/../nvidia/*/lib")
set(_rpath_link "")
foreach(_folder IN LISTS _nvidia_libs)
  get_filename_component(_folder "${_folder}" ABSOLUTE)
  list(APPEND _rpath_link "LINKER:-rpath-link,${_folder}")
endforeach()

# at::parallel_for in a file of ours is serial without -fopenmp, in silence. With g++, one OpenMP run-time library in the
# process: torch's own where it brings one. The thread sanitizer can't follow OpenMP.
file(GLOB _gomp "${LibTorch_ROOT}/lib/libgomp*.so*" "${LibTorch_ROOT}/../torch.libs/libgomp*.so*")
set(LibTorch_HAS_OPENMP TRUE)
set(_compile_openmp -fopenmp)
if(_gomp AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(GET _gomp 0 _gomp)
  add_library(LibTorch::openmp SHARED IMPORTED GLOBAL)
  set_target_properties(LibTorch::openmp PROPERTIES IMPORTED_LOCATION "${_gomp}")
else()
  add_library(LibTorch::openmp INTERFACE IMPORTED GLOBAL)
  find_package(OpenMP QUIET COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    # Not OpenMP::OpenMP_CXX, which only this directory would know.
    target_link_libraries(LibTorch::openmp INTERFACE ${OpenMP_CXX_LIBRARIES})
  else()
    set(LibTorch_HAS_OPENMP FALSE)
    set(_compile_openmp "")
  endif()
endif()
if(HALFSTEP_SANITIZE STREQUAL "thread")
  set(_compile_openmp "")
endif()

add_library(LibTorch::cpu INTERFACE IMPORTED GLOBAL)
set_target_properties(LibTorch::cpu PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_ROOT}/include;${LibTorch_ROOT}/include/torch/csrc/api/include"
  INTERFACE_COMPILE_FEATURES cxx_std_20
  INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:${_compile_openmp}>"
  INTERFACE_LINK_OPTIONS "${_rpath_link}"
  INTERFACE_LINK_LIBRARIES "LibTorch::torch_cpu;LibTorch::c10;LibTorch::openmp")

set(LibTorch_HAS_CUDA FALSE)
set(LibTorch_WHY_NO_CUDA "${LibTorch_ROOT}/lib has no libtorch_cuda.so")
if(TARGET LibTorch::torch_cuda AND TARGET LibTorch::c10_cuda)
  # ATen's CUDA headers include these of CUDA. A wheel with its dependencies has them beside it, of the right version;
  # otherwise they come from an installed toolkit.
  file(GLOB _includes "${LibTorch_ROOT}/../nvidia/*/include")
  file(GLOB _cudart "${LibTorch_ROOT}/../nvidia/*/lib/libcudart.so.*")
  set(_missing "")
  foreach(_header cuda_runtime_api.h crt/host_defines.h cublas_v2.h cublasLt.h cusparse.h cusolverDn.h)
    unset(_folder)
    find_path(_folder ${_header} PATHS ${_includes} NO_DEFAULT_PATH NO_CACHE)
    if(NOT _folder)
      list(APPEND _missing ${_header})
    endif()
  endforeach()
  set(_wrong "")
  if(_missing OR NOT _cudart)
    set(_cudart "")
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND)
      # libc10_cuda names the run-time library it was linked with.
      file(STRINGS "${LibTorch_ROOT}/lib/libc10_cuda.so" _needed REGEX "libcudart[^ ]*\\.so\\.[0-9]+" LIMIT_COUNT 1)
      string(REGEX REPLACE ".*libcudart[^ ]*\\.so\\.([0-9]+).*" "\\1" _needed "${_needed}")
      if(_needed AND NOT CUDAToolkit_VERSION_MAJOR EQUAL _needed)
        set(_wrong "it needs CUDA ${_needed}, and the toolkit found is ${CUDAToolkit_VERSION} in ${CUDAToolkit_TARGET_DIR} (CUDAToolkit_ROOT names another)")
      else()
        set(_cudart "${CUDA_cudart_LIBRARY}")
        set(_includes "${CUDAToolkit_INCLUDE_DIRS}")
      endif()
    endif()
  endif()
  if(_cudart)
    set(LibTorch_HAS_CUDA TRUE)
    set(LibTorch_WHY_NO_CUDA "")
    list(GET _cudart 0 _cudart)
    add_library(LibTorch::cudart SHARED IMPORTED GLOBAL)
    set_target_properties(LibTorch::cudart PROPERTIES IMPORTED_LOCATION "${_cudart}")
    add_library(LibTorch::cuda INTERFACE IMPORTED GLOBAL)
    set_target_properties(LibTorch::cuda PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${_includes}"
      # Nothing in a program names libtorch_cuda; without the flag the linker drops it, and with it every CUDA kernel.
      INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed,${LibTorch_ROOT}/lib/libtorch_cuda.so,--as-needed"
      INTERFACE_LINK_LIBRARIES "LibTorch::cpu;LibTorch::torch_cuda;LibTorch::c10_cuda;LibTorch::cudart")
  elseif(_wrong)
    set(LibTorch_WHY_NO_CUDA "${_wrong}")
  else()
    set(LibTorch_WHY_NO_CUDA "no CUDA toolkit was found (nvcc on PATH or CUDAToolkit_ROOT), and CUDA's headers do not lie beside ${LibTorch_ROOT}")
  endif()
endif()

set_target_properties(LibTorch::cpu PROPERTIES
  LibTorch_ROOT "${LibTorch_ROOT}"
  LibTorch_HAS_OPENMP "${LibTorch_HAS_OPENMP}"
  LibTorch_HAS_CUDA "${LibTorch_HAS_CUDA}"
  LibTorch_WHY_NO_CUDA "${LibTorch_WHY_NO_CUDA}")
