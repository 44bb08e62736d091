/*
 * Clock of emulated STM32 boards: timers 2 and 5, which QEMU counts at 1 GHz, that is in nanoseconds of its virtual time.
 * Real timers count half the core's clock and real parts have DWT, which QEMU does not: clock_dwt.c is theirs.
 */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define TIMER_CR1 0x00u
#define TIMER_CNT 0x24u
#define TIMER_ENABLE 1u

static uint32_t last_fine;
static uint32_t last_coarse;
static uint64_t cycles;

void clock_start(void)
{
    /* Its reload register stays 0: with another value QEMU 7.2 hangs at the first overflow, after 4.3 s. */
    REGISTER(STM32_TIM2 + TIMER_CR1) = TIMER_ENABLE;
    last_coarse = REGISTER(STM32_TIM5 + TIMER_CNT);
    last_fine = REGISTER(STM32_TIM2 + TIMER_CNT);
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns, so differences of the fine timer
 * are exact between any two reads with no sleep between them, and a sleep counts as its time. For the wraps of the fine
 * timer see clock_cmsdk.c. Straight-line code: every read costs the same.
 */
uint64_t port_cycles(void)
{
    uint32_t coarse = REGISTER(STM32_TIM5 + TIMER_CNT);
    uint32_t fine = REGISTER(STM32_TIM2 + TIMER_CNT);
    uint64_t about = (uint64_t)(uint32_t)(coarse - last_coarse) << STM32_TIM5_PRESCALER_BITS;
    uint64_t ticks = (uint32_t)(fine - last_fine);
    ticks += (about - ticks + 0x80000000u) & 0xFFFFFFFF00000000u;
    cycles += (ticks + 64u) >> 7;
    last_coarse = coarse;
    last_fine = fine;
    return cycles;
}

/* The timers run on in a sleep. */
void clock_slept(void)
{
}
