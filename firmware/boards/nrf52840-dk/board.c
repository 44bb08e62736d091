#include "board.h"

#include "blob_store.h"
#include "clock.h"
#include "cortex_m.h"
#include "nrf5.h"
#include "port.h"

/* nRF52840 product specification 1.7: 5.4 CLOCK, 5.3 POWER, 4.3 NVMC, 4.4 FICR and UICR, 4.8.2 access port protection. */
#define CLOCK_HFCLKSTART 0x40000000u
#define CLOCK_HFCLKSTARTED 0x40000100u
#define POWER_DCDCEN 0x40000578u
#define NVMC_ICACHECNF 0x4001E540u
#define APPROTECT_DISABLE 0x40000558u
#define UICR_APPROTECT 0x10001208u
#define FICR_INFO_VARIANT 0x10000104u

#define ICACHE_ENABLED 1u
#define DCDC_ENABLED 1u

const lab_port_t lab_port = {
    .board = BOARD_NAME,
    .clock_kind = "dwt",
    .clock_hz = BOARD_CLOCK_HZ,
    .blob_store = lab_blob_store,
    .blob_bytes = BLOB_STORE_BYTES,
    .blob_address = BLOB_STORE_ADDRESS,
    .stack = lab_stack,
    .stack_bytes = BOARD_STACK_BYTES,
    .marker = (volatile uint32_t *)(BOARD_MARKER_GPIO + NRF5_GPIO_OUT),
    .baud_rates = nrf5_baud_rates,
    .baud_rate_count = NRF5_BAUD_RATES,
    .set_baud = nrf5_set_baud,
};

/* From revision F on the debug port stays open only where the firmware, too, says so. The debugger's word in UICR is
 * repeated, so that a part that somebody locked stays locked. The revision is the third letter of, say, "AAF0". */
static void keep_the_debug_port_as_it_is(void)
{
    uint32_t revision = REGISTER(FICR_INFO_VARIANT) >> 8 & 0xFFu;
    if (revision >= 'F')
        REGISTER(APPROTECT_DISABLE) = REGISTER(UICR_APPROTECT);
}

/* 64 MHz from the 32 MHz crystal: the internal oscillator, which runs at reset, is off by up to 6 %. */
static void start_crystal(void)
{
    REGISTER(CLOCK_HFCLKSTARTED) = 0;
    REGISTER(CLOCK_HFCLKSTART) = NRF5_TRIGGER;
    while (!REGISTER(CLOCK_HFCLKSTARTED))
        continue;
}

static void start_coarse_timer(void)
{
    REGISTER(BOARD_COARSE_TIMER + NRF5_TIMER_BITMODE) = NRF5_TIMER_32_BIT;
    REGISTER(BOARD_COARSE_TIMER + NRF5_TIMER_PRESCALER) = BOARD_COARSE_PRESCALER;
    REGISTER(BOARD_COARSE_TIMER + NRF5_TIMER_START) = NRF5_TRIGGER;
}

void board_init(void)
{
    keep_the_debug_port_as_it_is();
    REGISTER(NVMC_ICACHECNF) = ICACHE_ENABLED;
    start_crystal();
    REGISTER(POWER_DCDCEN) = DCDC_ENABLED;
    REGISTER(BOARD_MARKER_GPIO + NRF5_GPIO_OUT) = 0;
    REGISTER(BOARD_MARKER_GPIO + NRF5_GPIO_DIRSET) = BOARD_MARKER_PINS;
    nrf5_init();
    start_coarse_timer();
    clock_start();
}
