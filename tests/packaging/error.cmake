# Configures PROJECT (halfstep itself unless told) and expects it to fail with a message that holds the parts of EXPECT, which
# are separated by %.
file(REMOVE_RECURSE "${WORK}")
if(NOT PROJECT)
  set(PROJECT "${HALFSTEP_SOURCE}")
endif()
set(_definitions "")
foreach(_name LIBTORCH_ROOT LibTorch_ROOT LibTorch_PYTHON HALFSTEP_CUDA CUDAToolkit_ROOT CMAKE_CXX_COMPILER CMAKE_PREFIX_PATH
              CMAKE_MODULE_PATH CMAKE_DISABLE_FIND_PACKAGE_OpenMP CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit COMPONENTS)
  if(DEFINED ${_name})
    list(APPEND _definitions "-D${_name}=${${_name}}")
  endif()
endforeach()
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${PROJECT}" -B "${WORK}" -G "${GENERATOR}" -C "${START}" ${_definitions}
  OUTPUT_VARIABLE _output ERROR_VARIABLE _said RESULT_VARIABLE _status)
# CMake breaks messages into lines.
string(REGEX REPLACE "[ \n]+" " " _said "${_said}")
message(STATUS "${_said}")
if(_status STREQUAL "0")
  message(FATAL_ERROR "expected the configure step to fail, but it did not: ${_output}")
endif()
if(NOT EXPECT)
  message(FATAL_ERROR "the test names no EXPECT, so it proves nothing")
endif()
string(REPLACE "%" ";" _parts "${EXPECT}")
string(REPLACE ";" "," _said "${_said}")
foreach(_part IN LISTS _parts)
  string(FIND "${_said}" "${_part}" _at)
  if(_at EQUAL -1)
    message(FATAL_ERROR "expected the message to hold '${_part}', but got: ${_said}")
  endif()
endforeach()
