# A build folder configured where no LibTorch is found, and again after an environment that has one (LIBTORCH) was activated.
file(REMOVE_RECURSE "${WORK}")
function(stand_in_python folder answer)
  file(WRITE "${folder}/python3" "#!/bin/sh\necho '${answer}'\n")
  file(CHMOD "${folder}/python3" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endfunction()
stand_in_python("${WORK}/without" "")
stand_in_python("${WORK}/with" "${LIBTORCH}")

function(configure python expect)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env "PATH=${WORK}/${python}:$ENV{PATH}" "${CMAKE_COMMAND}" -S "${PROJECT}" -B "${WORK}/build"
            -G "${GENERATOR}" -C "${START}" "-DCMAKE_MODULE_PATH=${CMAKE_MODULE_PATH}"
    OUTPUT_VARIABLE _output ERROR_VARIABLE _said RESULT_VARIABLE _status)
  string(REGEX REPLACE "[ \n]+" " " _said "${_said}")
  if(NOT _status STREQUAL "${expect}")
    message(FATAL_ERROR "${python} LibTorch: expected status ${expect}, but got ${_status} and: ${_output}${_said}")
  endif()
  set(_said "${_said}" PARENT_SCOPE)
endfunction()

configure(without 1)
if(NOT _said MATCHES "none was found")
  message(FATAL_ERROR "expected that none was found, but got: ${_said}")
endif()
configure(with 0)
file(STRINGS "${WORK}/build/CMakeCache.txt" _root REGEX "^LibTorch_LAST_ROOT:")
if(NOT _root STREQUAL "LibTorch_LAST_ROOT:INTERNAL=${LIBTORCH}")
  message(FATAL_ERROR "expected ${LIBTORCH}, but got ${_root}")
endif()
# Deactivated: the folder goes on with the LibTorch it has.
configure(without 0)
