# Decides HALFSTEP_USE_CUDA and the target halfstep links: LibTorch::cuda or LibTorch::cpu.

set(HALFSTEP_USE_CUDA OFF)
if(HALFSTEP_CUDA STREQUAL "AUTO")
  find_program(HALFSTEP_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(HALFSTEP_NVIDIA_SMI)
  if(HALFSTEP_NVIDIA_SMI AND TARGET LibTorch::torch_cuda)
    execute_process(COMMAND ${HALFSTEP_NVIDIA_SMI} -L RESULT_VARIABLE _no_gpu OUTPUT_QUIET ERROR_QUIET)
    if(_no_gpu STREQUAL "0")
      set(HALFSTEP_USE_CUDA ON)
    endif()
  endif()
elseif(HALFSTEP_CUDA)
  set(HALFSTEP_USE_CUDA ON)
endif()

set(HALFSTEP_LIBTORCH LibTorch::cpu)
if(HALFSTEP_USE_CUDA)
  if(NOT LibTorch_HAS_CUDA)
    message(FATAL_ERROR "[halfstep] a build with CUDA (HALFSTEP_CUDA=${HALFSTEP_CUDA}) needs LibTorch's CUDA libraries and CUDA's "
                        "headers, but ${LibTorch_WHY_NO_CUDA}; install them, or set HALFSTEP_CUDA=OFF for a CPU build")
  endif()
  set(HALFSTEP_LIBTORCH LibTorch::cuda)
  # NCCL itself is in LibTorch; its one header lies beside a wheel, or in a system package.
  file(GLOB _nccl_includes "${LibTorch_ROOT}/../nvidia/*/include")
  find_path(LibTorch_NCCL_INCLUDE nccl.h HINTS ${_nccl_includes})
  mark_as_advanced(LibTorch_NCCL_INCLUDE)
  if(NOT LibTorch_NCCL_INCLUDE)
    message(WARNING "[halfstep] GPUs exchange gradients by NCCL, but nccl.h is not found beside ${LibTorch_ROOT}: this build has gloo alone, "
                    "through the host's memory; install nvidia-nccl (pip) or libnccl-dev, or set LibTorch_NCCL_INCLUDE")
  endif()
endif()
