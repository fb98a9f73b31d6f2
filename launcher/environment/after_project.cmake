# Read after each project() of Horovod's CMake files, which ask for C++14: torch's headers want
# C++20.
set(CMAKE_CXX11_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CXX17_STANDARD_COMPILE_OPTION -std=c++20)

# Horovod asks distutils where Python.h is; Python 3.12 has no distutils any more.
if(PYTHON_EXECUTABLE)
  execute_process(
    COMMAND ${PYTHON_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('include'))"
    OUTPUT_VARIABLE launcher_python_include
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  include_directories(SYSTEM ${launcher_python_include})
endif()
