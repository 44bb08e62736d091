#include "board.h"

#include "blob_store.h"
#include "cortex_m.h"
#include "msf2.h"
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
    .marker = (volatile uint32_t *)BOARD_MARKER,
};

void board_init(void)
{
    msf2_init();
}
