#include "board.h"

#include "blob_store.h"
#include "cortex_m.h"
#include "lm3s.h"
#include "port.h"
#include "sd_card.h"

#define RUN_CLOCK_SSI 0x400FE104u
#define RUN_CLOCK_GPIO 0x400FE108u
#define PORT_A 0x40004000u
#define PORT_D 0x40007000u
#define GPIO_DIRECTION 0x400u
#define GPIO_ALTERNATE 0x420u
#define GPIO_DIGITAL 0x51Cu
#define SSI0_PINS (1u << 5 | 1u << 4 | 1u << 2)
/* PD0 alone, by the address lines. */
#define CARD_SELECT (PORT_D + (1u << 2))

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

void card_power(void)
{
    REGISTER(RUN_CLOCK_SSI) |= 1u << 4;
    REGISTER(RUN_CLOCK_GPIO) |= 1u << 3 | 1u << 0;
    REGISTER(PORT_A + GPIO_ALTERNATE) |= SSI0_PINS;
    REGISTER(PORT_A + GPIO_DIGITAL) |= SSI0_PINS;
    REGISTER(PORT_D + GPIO_DIGITAL) |= 1u << 0;
    REGISTER(PORT_D + GPIO_DIRECTION) |= 1u << 0;
}

void card_select(bool selected)
{
    REGISTER(CARD_SELECT) = selected ? 0u : 1u;
}

void board_init(void)
{
    lm3s_init();
}
