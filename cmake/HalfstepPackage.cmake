# What `cpack` makes of the install rules: halfstep-VERSION-Linux-x86_64.tar.gz and, on Debian and Ubuntu, halfstep_VERSION_amd64.deb.
# Neither holds LibTorch, which is larger than all the rest by far: the command looks for it in LD_LIBRARY_PATH, else where it was at
# build time.
set(CPACK_PACKAGE_NAME halfstep)
set(CPACK_PACKAGE_VERSION "${PROJECT_VERSION}")
set(CPACK_PACKAGE_VENDOR "halfstep developers")
set(CPACK_PACKAGE_CONTACT "halfstep developers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION
    "A library for C++ programs on LibTorch (autocast, loss scaling, fused optimizers, recorded steps) with its headers and CMake package, and the command halfstep, which trains from a config file. LibTorch ${LibTorch_VERSION} is not in the package and must be on the machine.")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_PACKAGE_FILE_NAME "halfstep-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_MONOLITHIC_INSTALL ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR TGZ)

# Debian's dpkg-dev. CPack's own use of it looks into every single file, which takes longer than all the rest.
find_program(HALFSTEP_SHLIBDEPS dpkg-shlibdeps)
mark_as_advanced(HALFSTEP_SHLIBDEPS)
if(HALFSTEP_SHLIBDEPS)
  list(APPEND CPACK_GENERATOR DEB)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_MAINTAINER "halfstep developers")
  set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_PACKAGE_SUGGESTS dataset-fashion-mnist)
  set(CPACK_PRE_BUILD_SCRIPTS "${PROJECT_SOURCE_DIR}/cmake/package_depends.cmake")
  set(CPACK_HALFSTEP_SHLIBDEPS "${HALFSTEP_SHLIBDEPS}")
endif()
include(CPack)
