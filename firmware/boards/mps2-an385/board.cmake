set(LAB_TOOLCHAIN arm-none-eabi)
set(LAB_CPU_FLAGS -mcpu=cortex-m3 -mthumb)
set(LAB_BOARD_FAMILY mps2)
set(LAB_BOARD_CLOCK cmsdk)
