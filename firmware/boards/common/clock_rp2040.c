/* Clock of the RP2040: SysTick (Armv6-M) at the core's clock, 24 bits, and the timer (data sheet 4.6), 64 bits at 1 MHz. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"
#include "rp2040.h"

#define SYSTICK_CONTROL 0xE000E010u
#define SYSTICK_RELOAD 0xE000E014u
#define SYSTICK_VALUE 0xE000E018u
#define SYSTICK_ENABLE_CORE_CLOCK 5u
#define SYSTICK_MAX 0xFFFFFFu

#define TIMER_HIGH (RP2040_TIMER + 0x08u)
#define TIMER_LOW (RP2040_TIMER + 0x0Cu)

#define CYCLES_PER_US (BOARD_CLOCK_HZ / 1000000u)

static uint64_t last_us;
static uint32_t last_fine;
static uint64_t cycles;

/* Reading the low half holds the high half that belongs to it. */
static uint64_t microseconds(void)
{
    uint32_t low = REGISTER(TIMER_LOW);
    return (uint64_t)REGISTER(TIMER_HIGH) << 32 | low;
}

void clock_start(void)
{
    REGISTER(SYSTICK_RELOAD) = SYSTICK_MAX;
    REGISTER(SYSTICK_VALUE) = 0;
    REGISTER(SYSTICK_CONTROL) = SYSTICK_ENABLE_CORE_CLOCK;
    last_us = microseconds();
    last_fine = ~REGISTER(SYSTICK_VALUE);
}

/*
 * SysTick wraps every 134 ms. The timer, which runs from the same crystal, tells to within a few microseconds how many
 * cycles have passed, and so how often SysTick wrapped between two reads; the result is exact to the cycle, also where
 * reads lie hours apart. Straight-line code: every read costs the same, as far as the flash's cache allows.
 */
uint64_t port_cycles(void)
{
    uint64_t us = microseconds();
    uint32_t fine = ~REGISTER(SYSTICK_VALUE);
    uint64_t about = (us - last_us) * CYCLES_PER_US;
    uint64_t ticks = (fine - last_fine) & SYSTICK_MAX;
    ticks += (about - ticks + (SYSTICK_MAX >> 1)) & ~(uint64_t)SYSTICK_MAX;
    cycles += ticks;
    last_us = us;
    last_fine = fine;
    return cycles;
}
