set(LAB_TOOLCHAIN arm-none-eabi)
set(LAB_CPU_FLAGS -mcpu=cortex-m33 -mfpu=fpv5-sp-d16 -mfloat-abi=hard -mthumb)
set(LAB_BOARD_FAMILY mps2)
set(LAB_BOARD_CLOCK cmsdk)
