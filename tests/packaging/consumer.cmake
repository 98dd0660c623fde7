# Configures, builds and runs PROJECT against the halfstep in PREFIX; the program's output must hold EXPECT.
file(REMOVE_RECURSE "${WORK}")
set(_definitions "")
foreach(_name LIBTORCH_ROOT)
  if(DEFINED ${_name})
    list(APPEND _definitions "-D${_name}=${${_name}}")
  endif()
endforeach()
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${PROJECT}" -B "${WORK}" -G "${GENERATOR}" -C "${START}" "-DCMAKE_PREFIX_PATH=${PREFIX}"
          "-DHALFSTEP_SOURCE=${HALFSTEP_SOURCE}" ${_definitions}
  COMMAND_ERROR_IS_FATAL ANY)
cmake_host_system_information(RESULT _cores QUERY NUMBER_OF_LOGICAL_CORES)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${WORK}" --parallel ${_cores} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${WORK}/consumer" ${ARGUMENTS} WORKING_DIRECTORY "${WORK}" OUTPUT_VARIABLE _said ERROR_VARIABLE _trouble RESULT_VARIABLE _status)
message(STATUS "the program said: ${_said}${_trouble}")
string(FIND "${_said}" "${EXPECT}" _at)
if(_at EQUAL -1 OR NOT _status STREQUAL "0")
  message(FATAL_ERROR "expected '${EXPECT}' and exit status 0, but got status ${_status} and: ${_said}${_trouble}")
endif()
