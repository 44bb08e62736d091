set(LAB_TOOLCHAIN aarch64-linux-gnu)
set(LAB_CPU_FLAGS)
set(LAB_BOARD_FAMILY hosted)
