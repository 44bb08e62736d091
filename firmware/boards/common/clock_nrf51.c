/* Clock of the emulated micro:bit: two of the nRF51's timers (reference manual 3.0, chapter 18), at 16 MHz and 62.5 kHz. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "nrf5.h"
#include "port.h"

#define COARSE_PRESCALER 8u /* 16 MHz / 2^8 */

static uint32_t last_fine;
static uint32_t last_coarse;
static uint64_t cycles;

static void start(uint32_t timer, uint32_t prescaler)
{
    REGISTER(timer + NRF5_TIMER_BITMODE) = NRF5_TIMER_32_BIT;
    REGISTER(timer + NRF5_TIMER_PRESCALER) = prescaler;
    REGISTER(timer + NRF5_TIMER_START) = NRF5_TRIGGER;
}

static uint32_t capture(uint32_t timer)
{
    NRF5_CAPTURE(timer);
    return REGISTER(timer + NRF5_TIMER_CC0);
}

void clock_start(void)
{
    start(BOARD_FINE_TIMER, 0);
    start(BOARD_COARSE_TIMER, COARSE_PRESCALER);
    last_coarse = capture(BOARD_COARSE_TIMER);
    last_fine = capture(BOARD_FINE_TIMER);
}

/* These timers run while the core sleeps. */
void clock_slept(void)
{
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns, a 16 MHz tick 62.5 ns, so n
 * instructions are 2.048 n = 256 n / 125 ticks. A difference of two captures is less than 1.016 ticks off (one for the
 * phase of the tick; QEMU rounds the 62.5 ns down, twice at the most between two captures), which is less than half an
 * instruction: the nearest n is exact between any two reads with no sleep between them. For the rest see clock_cmsdk.c.
 */
uint64_t port_cycles(void)
{
    uint32_t coarse = capture(BOARD_COARSE_TIMER);
    uint32_t fine = capture(BOARD_FINE_TIMER);
    uint64_t about = (uint64_t)(uint32_t)(coarse - last_coarse) << COARSE_PRESCALER;
    uint64_t ticks = (uint32_t)(fine - last_fine);
    ticks += (about - ticks + 0x80000000u) & 0xFFFFFFFF00000000u;
    cycles += (ticks * 125u + 128u) >> 8;
    last_coarse = coarse;
    last_fine = fine;
    return cycles;
}
