#include "board.h"

#include "blob_store.h"
#include "clock.h"
#include "cortex_m.h"
#include "nrf5.h"
#include "port.h"

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "virtual",
    .clock_hz = BOARD_CLOCK_HZ,
    .blob_store = lab_blob_store,
    .blob_bytes = BLOB_STORE_BYTES,
    .blob_address = BLOB_STORE_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)(BOARD_GPIO + NRF5_GPIO_OUT),
    .baud_rates = nrf5_baud_rates,
    .baud_rate_count = NRF5_BAUD_RATES,
    .set_baud = nrf5_set_baud,
};

void board_init(void)
{
    nrf5_init();
    clock_start();
}
