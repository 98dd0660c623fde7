# Decides HALFSTEP_USE_CUDA and the target halfstep links: LibTorch::cuda or LibTorch::cpu.

set(HALFSTEP_USE_CUDA OFF)
if(HALFSTEP_CUDA STREQUAL "AUTO")
  find_program(HALFSTEP_NVIDIA_SMI nvidia-smi)
  if(HALFSTEP_NVIDIA_SMI AND LibTorch_HAS_CUDA)
    execute_process(COMMAND ${HALFSTEP_NVIDIA_SMI} -L RESULT_VARIABLE _no_gpu OUTPUT_QUIET ERROR_QUIET)
    if(NOT _no_gpu)
      set(HALFSTEP_USE_CUDA ON)
    endif()
  endif()
elseif(HALFSTEP_CUDA)
  if(NOT LibTorch_HAS_CUDA)
    message(FATAL_ERROR "[halfstep] HALFSTEP_CUDA=ON needs a LibTorch with CUDA, but ${LibTorch_ROOT} has no libtorch_cuda.so; "
                        "install torch with CUDA or set HALFSTEP_CUDA=OFF")
  endif()
  set(HALFSTEP_USE_CUDA ON)
endif()

set(HALFSTEP_LIBTORCH LibTorch::cpu)
if(HALFSTEP_USE_CUDA)
  # The ATen and c10 CUDA headers include the CUDA toolkit's own.
  find_package(CUDAToolkit REQUIRED)
  set(HALFSTEP_LIBTORCH LibTorch::cuda)
endif()
