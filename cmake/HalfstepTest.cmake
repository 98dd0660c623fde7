# halfstep_test(<name> SOURCES … [LIBS …] [LABELS …] [ENVIRONMENT …]): a GoogleTest program.
#
# ctest shows one entry per suite, found by asking the program when ctest starts: a process costs 0.2 s to start, so one
# entry per case would take longer than the tests. Each entry prints its cases one by one.
#
# Labels: `process` starts processes or builds projects, `slow` takes minutes and is left out of `make test`, `timing` measures time and so
# runs alone. The target unit_tests builds the programs without `process` and `slow`: what the sanitizers run; library_tests those of
# them that need no trainer.
add_custom_target(unit_tests)
add_custom_target(library_tests)

function(halfstep_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS;LABELS;ENVIRONMENT")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE halfstep::halfstep halfstep_flags halfstep_test_support ${arg_LIBS})
  halfstep_build_fast(${name})
  if(NOT "process" IN_LIST arg_LABELS AND NOT "slow" IN_LIST arg_LABELS)
    add_dependencies(unit_tests ${name})
    if(NOT "halfstep::train" IN_LIST arg_LIBS)
      add_dependencies(library_tests ${name})
    endif()
  endif()
  set(script "${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake")
  file(CONFIGURE OUTPUT "${script}" @ONLY CONTENT [[
set(_program "@CMAKE_CURRENT_BINARY_DIR@/@name@")
set(_filter "")
set(_labels "@arg_LABELS@")
set(_environment "@arg_ENVIRONMENT@")
include("@PROJECT_SOURCE_DIR@/cmake/add_suites.cmake")
]])
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${script}")
endfunction()

# halfstep_test_on_pretended_cuda(<name> [ALSO <filter>…] [BUT <filter>…]): the CUDA instances of a test program once more, on the pretended
# device of tests/pretended_cuda, as one entry of ctest. ALSO names further tests, BUT those left out. Nothing in a CUDA build or under a sanitizer.
function(halfstep_test_on_pretended_cuda program)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "ALSO;BUT")
  if(HALFSTEP_USE_CUDA OR HALFSTEP_SANITIZE)
    return()
  endif()
  set(name ${program}_on_pretended_cuda)
  # Its objects come first, so its main() and its answers about CUDA stand in for those of the libraries.
  add_executable(${name} $<TARGET_OBJECTS:halfstep_pretended_cuda> $<TARGET_OBJECTS:${program}>)
  target_link_libraries(${name} PRIVATE halfstep::halfstep halfstep_flags halfstep_test_support)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  list(JOIN arg_ALSO ":" also)
  list(JOIN arg_BUT ":" but)
  set(filter "*/CUDA*:${also}-${but}")
  set(script "${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake")
  file(CONFIGURE OUTPUT "${script}" @ONLY CONTENT [[
set(_program "@CMAKE_CURRENT_BINARY_DIR@/@name@")
set(_filter "@filter@")
set(_labels "")
set(_environment "")
include("@PROJECT_SOURCE_DIR@/cmake/add_suites.cmake")
]])
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${script}")
endfunction()
