# Run by cpack, once the files are in place: the Debian packages whose libraries the command needs. Those of LibTorch belong to none.
file(GLOB _command "${CPACK_TEMPORARY_DIRECTORY}/usr/bin/halfstep")
if(NOT CPACK_GENERATOR STREQUAL "DEB" OR NOT _command)
  return()
endif()
# It wants to be in a folder of sources.
set(_folder "${CPACK_TOPLEVEL_DIRECTORY}/depends")
file(WRITE "${_folder}/debian/control" "Source: halfstep\n\nPackage: halfstep\nArchitecture: any\n")
execute_process(COMMAND "${CPACK_HALFSTEP_SHLIBDEPS}" --ignore-missing-info -O "${_command}" WORKING_DIRECTORY "${_folder}"
                OUTPUT_VARIABLE _said ERROR_VARIABLE _trouble RESULT_VARIABLE _failed OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT _failed STREQUAL "0" OR NOT _said MATCHES "shlibs:Depends=(.+)")
  message(FATAL_ERROR "[package] dpkg-shlibdeps must name what ${_command} needs, but said: ${_said}${_trouble}; is LibTorch where it was?")
endif()
set(CPACK_DEBIAN_PACKAGE_DEPENDS "${CMAKE_MATCH_1}")
