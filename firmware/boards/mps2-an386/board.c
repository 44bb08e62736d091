#include "board.h"

#include "cortex_m.h"
#include "mps2.h"
#include "port.h"

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "virtual",
    .clock_hz = BOARD_CLOCK_HZ,
    .blob_store = (uint8_t *)BOARD_BLOB_ADDRESS,
    .blob_bytes = BOARD_BLOB_BYTES,
    .blob_address = BOARD_BLOB_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)BOARD_MARKER,
    .baud_rates = mps2_baud_rates,
    .baud_rate_count = MPS2_BAUD_RATES,
    .set_baud = mps2_set_baud,
};

void board_init(void)
{
    mps2_init();
}
