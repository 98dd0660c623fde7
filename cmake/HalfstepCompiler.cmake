# Language level, warnings, sanitizers, ccache and the precompiled header.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(_oldest 11)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  set(_oldest 14)
else()
  set(_oldest 0)
endif()
if(NOT "cxx_std_20" IN_LIST CMAKE_CXX_COMPILE_FEATURES OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS _oldest)
  message(FATAL_ERROR "[halfstep] a C++20 compiler is needed (g++ 11, clang 14 or newer), but got "
                      "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} (${CMAKE_CXX_COMPILER}); set CMAKE_CXX_COMPILER to a newer one")
endif()

if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_CXX_STANDARD 20)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  set(CMAKE_CXX_EXTENSIONS OFF)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release)
  endif()
  find_program(CCACHE_PROGRAM ccache)
  if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    # Without the sloppiness ccache never reuses an object that was compiled with a precompiled header.
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
                                    CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  endif()
endif()

# A source costs g++ seconds of LibTorch's templates before its first line: several of one target are compiled as one. What must be
# compiled alone has SKIP_UNITY_BUILD_INCLUSION.
if(HALFSTEP_UNITY)
  set(CMAKE_UNITY_BUILD ON)
  set(CMAKE_UNITY_BUILD_BATCH_SIZE 6)
  # A class in a .cpp file may have members of types from its unnamed namespace.
  set(_unity_options $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
endif()

# Everything of ours is compiled with these: the precompiled header can be shared only between equal flags.
add_library(halfstep_flags INTERFACE)
# NDEBUG in every build (Release has it already): without it LibTorch's headers give some classes (RecordFunction) members that its libraries,
# built with it, don't have.
target_compile_definitions(halfstep_flags INTERFACE $<$<NOT:$<CONFIG:Release>>:NDEBUG>)
target_compile_options(halfstep_flags INTERFACE
  -fPIC -Wall -Wextra -Wshadow -Wno-unknown-pragmas -fvisibility-inlines-hidden
  ${_unity_options} $<$<BOOL:${HALFSTEP_WERROR}>:-Werror>)

if(HALFSTEP_SANITIZE STREQUAL "address")
  target_compile_options(halfstep_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  # LibTorch is built without RTTI information for the vptr check.
  target_compile_options(halfstep_flags INTERFACE -fno-sanitize=vptr)
  # Between the sanitizers' checks g++ loses sight of what an empty std::optional guards.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(halfstep_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
  target_link_options(halfstep_flags INTERFACE -fsanitize=address,undefined)
elseif(HALFSTEP_SANITIZE STREQUAL "thread")
  target_compile_options(halfstep_flags INTERFACE -fsanitize=thread)
  # LibTorch's reference counts have fences, of which g++ warns that the sanitizer does not see them.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(halfstep_flags INTERFACE -Wno-tsan)
  endif()
  target_link_options(halfstep_flags INTERFACE -fsanitize=thread)
elseif(HALFSTEP_SANITIZE)
  message(FATAL_ERROR "[halfstep] HALFSTEP_SANITIZE must be empty, 'address' or 'thread', but got '${HALFSTEP_SANITIZE}'")
endif()

# halfstep_use_pch(<target>): the library's precompiled header, made by the library and reused by what has its flags.
function(halfstep_use_pch target)
  if(NOT HALFSTEP_PCH OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    return()
  endif()
  # ccache needs it to see which header was used.
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  if(target STREQUAL "halfstep")
    target_precompile_headers(halfstep PRIVATE "${PROJECT_SOURCE_DIR}/cmake/pch.h")
  else()
    target_precompile_headers(${target} REUSE_FROM halfstep)
  endif()
endfunction()

# halfstep_build_fast(<target>): for tests and examples, where compiling takes longer than running. They use much more of LibTorch's
# headers than the library does, so they have a precompiled header of their own.
function(halfstep_build_fast target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  if(NOT HALFSTEP_PCH OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    return()
  endif()
  if(NOT TARGET halfstep_torch_pch)
    add_library(halfstep_torch_pch STATIC EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/cmake/torch_pch.cpp")
    target_link_libraries(halfstep_torch_pch PRIVATE ${HALFSTEP_LIBTORCH} halfstep_flags)
    target_compile_options(halfstep_torch_pch PRIVATE -fpch-preprocess $<$<CONFIG:Release>:-O1>)
    target_precompile_headers(halfstep_torch_pch PRIVATE "${PROJECT_SOURCE_DIR}/cmake/torch_pch.h")
  endif()
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  target_precompile_headers(${target} REUSE_FROM halfstep_torch_pch)
endfunction()
