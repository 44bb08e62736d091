# Bare metal with the Zig compiler (package ziglang from PyPI): clang and lld in one wheel, no C library. lab/build.py
# names the program by LAB_ZIG and translates the board's flags into LAB_CPU_FLAGS.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_C_COMPILER ${LAB_ZIG} cc)
# Its test would build a library, which needs an archiver that not every machine has.
set(CMAKE_C_COMPILER_WORKS TRUE)
