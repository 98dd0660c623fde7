# Install rules. Two components: `library` (halfstep::halfstep) and `trainer` (halfstep::train, the command, its configs).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(_config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/halfstep")

# The installed command finds the LibTorch it was linked with, and libraries that are not the system's. INSTALL_RPATH_USE_LINK_PATH alone
# would leave out a LibTorch inside the clone, as .venv is.
if(TARGET halfstep_command)
  set(_run_path "")
  foreach(_library torch_cpu openmp cudart)
    if(TARGET LibTorch::${_library})
      get_target_property(_type LibTorch::${_library} TYPE)
      if(_type STREQUAL "SHARED_LIBRARY")
        list(APPEND _run_path "$<TARGET_FILE_DIR:LibTorch::${_library}>")
      endif()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES _run_path)
  set_target_properties(halfstep_command PROPERTIES INSTALL_RPATH "${_run_path}" INSTALL_RPATH_USE_LINK_PATH ON)
endif()

install(TARGETS halfstep EXPORT halfstepTargets COMPONENT library)
install(EXPORT halfstepTargets NAMESPACE halfstep:: DESTINATION ${_config_dir} COMPONENT library)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/halfstep" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library
        FILES_MATCHING PATTERN "*.h" PATTERN "halfstep/train" EXCLUDE PATTERN "halfstep/dist/gloo_names" EXCLUDE PATTERN "halfstep/train.h" EXCLUDE)

if(HALFSTEP_BUILD_TRAINER)
  install(TARGETS halfstep_train EXPORT halfstepTrainTargets COMPONENT trainer)
  install(EXPORT halfstepTrainTargets NAMESPACE halfstep:: DESTINATION ${_config_dir} COMPONENT trainer)
  install(FILES "${PROJECT_SOURCE_DIR}/halfstep/train.h" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/halfstep COMPONENT trainer)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/halfstep/train" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/halfstep COMPONENT trainer
          FILES_MATCHING PATTERN "*.h")
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs/" DESTINATION ${CMAKE_INSTALL_DATADIR}/halfstep/configs COMPONENT trainer
          FILES_MATCHING PATTERN "*.yaml")
  if(TARGET halfstep_command)
    install(TARGETS halfstep_command RUNTIME COMPONENT trainer)
  endif()
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/halfstepConfig.cmake.in" "${PROJECT_BINARY_DIR}/halfstepConfig.cmake"
                              INSTALL_DESTINATION ${_config_dir})
# Before 1.0 a minor version may break its users.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/halfstepConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/halfstepConfig.cmake" "${PROJECT_BINARY_DIR}/halfstepConfigVersion.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake" "${PROJECT_SOURCE_DIR}/cmake/LocateLibTorch.cmake"
        DESTINATION ${_config_dir} COMPONENT library)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT library)
