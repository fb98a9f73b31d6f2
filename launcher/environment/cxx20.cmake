# A toolchain file: CMake reads it before a project that we do not change.
set(CMAKE_PROJECT_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/after_project.cmake)

# The wheel is built once and used in many environments: its libraries are found relative to where
# it is installed (lib/pythonX.Y/site-packages/horovod/torch), not where it was built.
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH
    "$ORIGIN/../../../.."
    "$ORIGIN/../../torch/lib"
    "$ORIGIN/../../nvidia/nccl/lib")
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH "$ENV{LAUNCHER_SYSTEM_MPI}")
