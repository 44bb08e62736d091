#include "board.h"

#include "blob_store.h"
#include "boot.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"
#include "rp2040.h"

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "systick",
    .clock_hz = BOARD_CLOCK_HZ,
    .blob_store = lab_blob_store,
    .blob_bytes = BLOB_STORE_BYTES,
    .blob_address = BLOB_STORE_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)RP2040_GPIO_OUT,
    .baud_rates = rp2040_baud_rates,
    .baud_rate_count = RP2040_BAUD_RATES,
    .set_baud = rp2040_set_baud,
};

void board_init(void)
{
    rp2040_init();
    clock_start();
}
