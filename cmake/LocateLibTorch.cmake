# Where LibTorch is, without its targets, so that a script can ask too: `cmake -P cmake/LocateLibTorch.cmake` prints
# "version|folder|found through", or nothing where there is none, and fails where the LibTorch meant can't be used.
#
# Looks, in this order, at
#   LIBTORCH_ROOT, LibTorch_ROOT  (CMake or environment variables) a libtorch folder, or the torch folder of a Python environment
#   CMAKE_PREFIX_PATH             (likewise) each entry as a libtorch folder, its share/cmake, or a Python environment
#   the LibTorch that an installed halfstep was built with (LibTorch_BUILT_WITH, from halfstepConfig.cmake)
#   the LibTorch that this build folder was configured with before (LibTorch_LAST_ROOT)
#   the project's own virtual environment (.venv, made by `make setup`)
#   the torch that `python3` (or LibTorch_PYTHON) would import
# The first one found is the one the user means: when it is too old that is an error, and no other is tried.
#
# Sets LibTorch_ROOT, LibTorch_VERSION and LibTorch_ORIGIN, empty where none was found.

set(LibTorch_OLDEST 2.11)

set(_candidates "")
foreach(_root IN LISTS LIBTORCH_ROOT)
  list(APPEND _candidates "${_root}|LIBTORCH_ROOT")
endforeach()
if(NOT "$ENV{LIBTORCH_ROOT}" STREQUAL "")
  list(APPEND _candidates "$ENV{LIBTORCH_ROOT}|the environment variable LIBTORCH_ROOT")
endif()
# Below it is the answer: what a first search in this scope found is no hint for a second one.
if(LibTorch_ROOT AND NOT LibTorch_ORIGIN)
  list(APPEND _candidates "${LibTorch_ROOT}|LibTorch_ROOT")
endif()
if(NOT "$ENV{LibTorch_ROOT}" STREQUAL "")
  list(APPEND _candidates "$ENV{LibTorch_ROOT}|the environment variable LibTorch_ROOT")
endif()

string(REPLACE ":" ";" _prefixes "$ENV{CMAKE_PREFIX_PATH}")
foreach(_prefix IN LISTS CMAKE_PREFIX_PATH _prefixes)
  string(REGEX REPLACE "/share/cmake(/Torch)?/?$" "" _root "${_prefix}")
  file(GLOB _in_environment "${_prefix}/lib/python3*/site-packages/torch")
  foreach(_folder IN ITEMS "${_root}" "${_prefix}/libtorch" ${_in_environment})
    list(APPEND _candidates "${_folder}|CMAKE_PREFIX_PATH")
  endforeach()
endforeach()

if(LibTorch_BUILT_WITH)
  list(APPEND _candidates "${LibTorch_BUILT_WITH}|the installed halfstep, which was built with it")
endif()

# The project's own is not taken through the last configure: it may be unfinished since.
get_filename_component(_venv "${CMAKE_CURRENT_LIST_DIR}/../.venv" ABSOLUTE)
cmake_path(IS_PREFIX _venv "${LibTorch_LAST_ROOT}" NORMALIZE _own)
if(LibTorch_LAST_ROOT AND NOT _own)
  list(APPEND _candidates "${LibTorch_LAST_ROOT}|the last configure of this build folder")
endif()

# The stamp is written when the set-up is complete.
if(EXISTS "${_venv}/halfstep-libtorch")
  file(GLOB _own "${_venv}/lib/python3*/site-packages/torch")
  foreach(_root IN LISTS _own)
    list(APPEND _candidates "${_root}|the project's .venv")
  endforeach()
endif()

# Not cached: the next configure may run in an environment that was activated since.
find_program(LibTorch_PYTHON NAMES python3 python NO_CACHE)
if(LibTorch_PYTHON)
  # find_spec does not import torch: that takes seconds, and fails where torch's own Python dependencies are missing.
  execute_process(
    COMMAND "${LibTorch_PYTHON}" -c "import importlib.util as u; s = u.find_spec('torch'); print(list(s.submodule_search_locations or [''])[0] if s else '')"
    OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(_root)
    list(APPEND _candidates "${_root}|${LibTorch_PYTHON}")
  endif()
endif()

set(LibTorch_ROOT "")
set(LibTorch_VERSION "")
set(LibTorch_ORIGIN "")
foreach(_candidate IN LISTS _candidates)
  string(REPLACE "|" ";" _candidate "${_candidate}")
  list(GET _candidate 0 _root)
  list(GET _candidate 1 _origin)
  get_filename_component(_root "${_root}" ABSOLUTE)
  if(NOT EXISTS "${_root}/include/torch/csrc/api/include/torch/torch.h")
    if(_origin MATCHES "LIBTORCH_ROOT|LibTorch_ROOT")
      message(FATAL_ERROR "[FindLibTorch] ${_origin} must name a libtorch folder (the one that holds include/ and lib/), "
                          "but got '${_root}'; unpack libtorch there or unset it")
    endif()
    continue()
  endif()
  set(_version "")
  foreach(_header headeronly/version.h csrc/api/include/torch/version.h)
    if(NOT _version AND EXISTS "${_root}/include/torch/${_header}")
      file(STRINGS "${_root}/include/torch/${_header}" _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
      list(JOIN _numbers "." _version)
    endif()
  endforeach()
  if(NOT _version)
    set(_version "(no version.h)")
  endif()
  if(_version VERSION_LESS LibTorch_OLDEST)
    if(_origin STREQUAL LibTorch_PYTHON)
      set(_or_pinned "run `scripts/setup --pinned` in a clone of halfstep to use a pinned one instead")
    else()
      set(_or_pinned "unset it and run `make setup` in a clone of halfstep")
    endif()
    message(FATAL_ERROR "[FindLibTorch] halfstep needs LibTorch ${LibTorch_OLDEST} or newer, but found version ${_version} in "
                        "${_root} (through ${_origin}); upgrade it, set LIBTORCH_ROOT to another one, or ${_or_pinned}")
  endif()
  set(LibTorch_ROOT "${_root}")
  set(LibTorch_VERSION "${_version}")
  set(LibTorch_ORIGIN "${_origin}")
  break()
endforeach()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE AND LibTorch_ROOT)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${LibTorch_VERSION}|${LibTorch_ROOT}|${LibTorch_ORIGIN}")
endif()
