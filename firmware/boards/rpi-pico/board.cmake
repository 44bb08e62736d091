set(LAB_TOOLCHAIN arm-none-eabi)
set(LAB_CPU_FLAGS -mcpu=cortex-m0plus -mfloat-abi=soft -mthumb)
set(LAB_BOARD_FAMILY rp2040)
set(LAB_BOARD_CLOCK rp2040)
set(LAB_BOARD_SLEEP rp2040)
# Running on GP2 (pin 4 of the board), layers on GP3 (pin 5).
set(LAB_BOARD_DEFINITIONS LAB_MARKER_SHIFT=2)
