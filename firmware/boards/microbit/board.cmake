set(LAB_TOOLCHAIN arm-none-eabi)
set(LAB_CPU_FLAGS -mcpu=cortex-m0 -mfloat-abi=soft -mthumb)
set(LAB_BOARD_FAMILY nrf5)
set(LAB_BOARD_CLOCK nrf51)
set(LAB_BOARD_SLEEP nrf5)
# Running on P0.01 (the large pad 2), layers on P0.02 (the large pad 1).
set(LAB_BOARD_DEFINITIONS LAB_MARKER_SHIFT=1)
