# Installation of the C++ library without Python:
#   cmake -B build && cmake --build build && cmake --install build --prefix ...
# and in another project: find_package(fastmlp), target_link_libraries(... fastmlp::fastmlp).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

install(TARGETS fastmlp EXPORT fastmlpTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/cpp/include/fastmlp
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT fastmlpTargets NAMESPACE fastmlp::
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fastmlp)
configure_package_config_file(
  ${CMAKE_CURRENT_SOURCE_DIR}/cpp/fastmlpConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/fastmlpConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fastmlp)
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/fastmlpConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/fastmlpConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/fastmlpConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fastmlp)
