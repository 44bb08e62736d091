set(LAB_TOOLCHAIN arm-none-eabi)
set(LAB_CPU_FLAGS -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard -mthumb)
set(LAB_BOARD_FAMILY nrf5)
set(LAB_BOARD_CLOCK dwt)
set(LAB_BOARD_SLEEP nrf5)
# Running on P1.01 (header P3, D0), layers on P1.02 (D1).
set(LAB_BOARD_DEFINITIONS LAB_MARKER_SHIFT=1)
