set(LAB_TOOLCHAIN x86_64-linux-gnu)
set(LAB_CPU_FLAGS)
set(LAB_BOARD_FAMILY hosted)
