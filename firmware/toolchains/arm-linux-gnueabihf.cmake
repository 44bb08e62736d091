# 32-bit Arm Linux (Armv7-A, hard float): Debian packages gcc-arm-linux-gnueabihf and libc6-dev-armhf-cross.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
