#include "board.h"

#include "cortex_m.h"
#include "port.h"

#if STM32_PIN_NUMBER(BOARD_MARKER) != LAB_MARKER_SHIFT || BOARD_LAYER_MARKER != BOARD_MARKER + 1
#error "the marker pins of board.h are not those of board.cmake, or not neighbours"
#endif

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "dwt",
    .clock_hz = BOARD_CLOCK_HZ,
    .clock_hz_now = &stm32_core_hz,
    .blob_store = (uint8_t *)BOARD_BLOB_ADDRESS,
    .blob_bytes = BOARD_BLOB_BYTES,
    .blob_address = BOARD_BLOB_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)(STM32_GPIO(BOARD_MARKER) + STM32_GPIO_BSRR),
    .baud_rates = stm32_baud_rates,
    .baud_rate_count = STM32_BAUD_RATES,
    .set_baud = stm32_set_baud,
};

void board_init(void)
{
    stm32_start_clock();
    stm32_start_lines();
}
