# Packs the build by cpack, and unpacks both packages: what must be in them, what must not, and that the command runs.
cmake_policy(VERSION 3.25)
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
execute_process(COMMAND "${CPACK}" --config "${BUILD}/CPackConfig.cmake" -B "${WORK}" OUTPUT_VARIABLE _said ERROR_VARIABLE _said
                RESULT_VARIABLE _failed)
if(NOT _failed STREQUAL "0")
  message(FATAL_ERROR "cpack failed: ${_said}")
endif()

# The files below `folder`, whose prefix is cut off.
function(files_of folder result)
  file(GLOB_RECURSE files LIST_DIRECTORIES false RELATIVE "${folder}" "${folder}/*")
  list(SORT files)
  set(${result} "${files}" PARENT_SCOPE)
endfunction()

function(check_files package files)
  foreach(wanted "bin/halfstep" "include/halfstep/halfstep.h" "include/halfstep/train.h" "include/halfstep/train/main.h"
                 "lib[^;]*/libhalfstep\\.a" "lib[^;]*/libhalfstep_train\\.a" "lib[^;]*/cmake/halfstep/halfstepConfig\\.cmake"
                 "lib[^;]*/cmake/halfstep/FindLibTorch\\.cmake" "share/doc/halfstep/LICENSE" "share/halfstep/configs/mnist_mlp\\.yaml")
    if(NOT ";${files};" MATCHES ";${wanted};")
      message(FATAL_ERROR "${package} must hold ${wanted}, but does not: ${files}")
    endif()
  endforeach()
  foreach(file IN LISTS files)
    # LibTorch and what comes with it, tests, and what a build leaves behind.
    if(file MATCHES "\\.so|torch/|_tests?$|gtest|gmock|tests/|\\.(o|cpp|py|pch|gch|log)$|CMakeFiles")
      message(FATAL_ERROR "${package} must not hold ${file}; the install rules let it in")
    endif()
  endforeach()
endfunction()

function(check_command command)
  execute_process(COMMAND "${command}" --version OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE status)
  if(NOT status STREQUAL "0" OR NOT said MATCHES "^halfstep ${VERSION}, LibTorch ")
    message(FATAL_ERROR "${command} --version must run and say 'halfstep ${VERSION}, LibTorch …', but ended with ${status} and: ${said}")
  endif()
endfunction()

# The archive.
set(_name "halfstep-${VERSION}-${SYSTEM}")
file(ARCHIVE_EXTRACT INPUT "${WORK}/${_name}.tar.gz" DESTINATION "${WORK}/tar")
files_of("${WORK}/tar/${_name}" _in_tar)
check_files("${_name}.tar.gz" "${_in_tar}")
check_command("${WORK}/tar/${_name}/bin/halfstep")

# The .deb.
include("${BUILD}/CPackConfig.cmake")
if(NOT DEB IN_LIST CPACK_GENERATOR)
  message("SKIPPED, NOTHING WAS TESTED: no .deb is made without dpkg-shlibdeps (scripts/setup --package); the .tar.gz is in order")
  return()
endif()
execute_process(COMMAND dpkg --print-architecture OUTPUT_VARIABLE _architecture OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(_deb "${WORK}/halfstep_${VERSION}_${_architecture}.deb")
execute_process(COMMAND dpkg-deb --extract "${_deb}" "${WORK}/deb" COMMAND_ERROR_IS_FATAL ANY)
files_of("${WORK}/deb/usr" _in_deb)
if(NOT _in_deb STREQUAL _in_tar)
  message(FATAL_ERROR "both packages must hold the same files, but the .deb holds ${_in_deb} and the .tar.gz ${_in_tar}")
endif()
check_command("${WORK}/deb/usr/bin/halfstep")
execute_process(COMMAND dpkg-deb --field "${_deb}" OUTPUT_VARIABLE _fields COMMAND_ERROR_IS_FATAL ANY)
foreach(_field "Package: halfstep\n" "Version: ${VERSION}\n" "Architecture: ${_architecture}\n" "Maintainer: halfstep developers\n"
               "Depends: [^\n]*libc6 " "Depends: [^\n]*libyaml-cpp" "Depends: [^\n]*libhwy" "Description: Automatic mixed precision")
  if(NOT _fields MATCHES "${_field}")
    message(FATAL_ERROR "the .deb must say '${_field}', but says: ${_fields}")
  endif()
endforeach()
if(_fields MATCHES "Depends: [^\n]*(torch|cuda)")
  message(FATAL_ERROR "the .deb must not depend on a package of LibTorch, which Debian's is not, but says: ${_fields}")
endif()
