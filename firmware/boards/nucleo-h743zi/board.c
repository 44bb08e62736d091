#include "board.h"

#include "blob_store.h"
#include "cortex_m.h"
#include "port.h"

#if STM32_PIN_NUMBER(BOARD_MARKER) != LAB_MARKER_SHIFT || BOARD_LAYER_MARKER != BOARD_MARKER + 1
#error "the marker pins of board.h are not those of board.cmake, or not neighbours"
#endif

extern uint8_t board_axi_sram[], board_axi_sram_end[];

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "dwt",
    .clock_hz = BOARD_CLOCK_HZ,
    .clock_hz_now = &stm32_core_hz,
    .blob_store = lab_blob_store,
    .blob_bytes = BLOB_STORE_BYTES,
    .blob_address = BLOB_STORE_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)(STM32_GPIO(BOARD_MARKER) + STM32_GPIO_BSRR),
    .baud_rates = stm32_baud_rates,
    .baud_rate_count = STM32_BAUD_RATES,
    .set_baud = stm32_set_baud,
};

/* These memories have error correction for words of 32 and 64 bits (AN5342), which is wrong for whatever they hold after
 * power-up: each word is written whole before a part of it is. Start-up code does so with what else lies in RAM. */
static void write_whole_words(uint8_t *start, uint32_t bytes)
{
    volatile uint64_t *words = (volatile uint64_t *)(void *)start;
    for (uint32_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = 0;
}

void board_init(void)
{
    write_whole_words(lab_blob_store, BLOB_STORE_BYTES);
    write_whole_words(board_axi_sram, (uint32_t)(board_axi_sram_end - board_axi_sram));
    stm32_start_clock();
    stm32_start_lines();
}
