set(LAB_TOOLCHAIN arm-linux-gnueabihf)
set(LAB_CPU_FLAGS -march=armv7-a+fp)
set(LAB_BOARD_FAMILY hosted)
