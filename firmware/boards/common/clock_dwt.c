/*
 * Clock of boards with DWT's cycle counter (Arm DDI 0403, C1.8), which has 32 bits. A coarse timer that runs from the same
 * oscillator tells how often it wrapped: BOARD_COARSE_COUNT counts once in 2^BOARD_COARSE_BITS cycles of the core.
 */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define DEMCR 0xE000EDFCu
#define DEMCR_TRACE_ENABLE (1u << 24)
#define DWT_CTRL 0xE0001000u
#define DWT_CTRL_COUNT 1u
#define DWT_CYCCNT 0xE0001004u
#define DWT_LAR 0xE0001FB0u
#define DWT_UNLOCK 0xC5ACCE55u

static uint32_t last_fine;
static uint32_t last_coarse;
static uint64_t cycles;

void clock_start(void)
{
    REGISTER(DEMCR) |= DEMCR_TRACE_ENABLE;
    /* Cortex-M7 locks the unit against software; Cortex-M4 has no such register and ignores the store. */
    REGISTER(DWT_LAR) = DWT_UNLOCK;
    REGISTER(DWT_CTRL) |= DWT_CTRL_COUNT;
    last_coarse = REGISTER(BOARD_COARSE_COUNT);
    last_fine = REGISTER(DWT_CYCCNT);
}

/*
 * Straight-line code: every read costs the same, but for the read of the coarse timer, which waits for the clock of its
 * bus. Two reads may therefore differ by one cycle of that bus, some cycles of the core's.
 */
uint64_t port_cycles(void)
{
    uint32_t coarse = REGISTER(BOARD_COARSE_COUNT);
    uint32_t fine = REGISTER(DWT_CYCCNT);
    uint64_t about = (uint64_t)(uint32_t)(coarse - last_coarse) << BOARD_COARSE_BITS;
    uint64_t ticks = (uint32_t)(fine - last_fine);
    ticks += (about - ticks + 0x80000000u) & 0xFFFFFFFF00000000u;
    cycles += ticks;
    last_coarse = coarse;
    last_fine = fine;
    return cycles;
}

/* The cycle counter stands while the core sleeps, unless a debugger is attached. The coarse timer runs on, and counts
 * for both: time asleep is right to one of its ticks. Nothing is measured across a sleep. */
void clock_slept(void)
{
    uint32_t coarse = REGISTER(BOARD_COARSE_COUNT);
    cycles += (uint64_t)(uint32_t)(coarse - last_coarse) << BOARD_COARSE_BITS;
    last_coarse = coarse;
    last_fine = REGISTER(DWT_CYCCNT);
}
