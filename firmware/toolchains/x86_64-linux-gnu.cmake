# 64-bit x86 Linux: Debian package gcc on such a machine, gcc-x86-64-linux-gnu on others.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-linux-gnu-gcc)
