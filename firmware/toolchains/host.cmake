# This machine: Debian package gcc.
set(CMAKE_C_COMPILER gcc)
