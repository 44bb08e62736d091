/* Clock of boards whose only readable timer counts 32 bits down, at BOARD_COUNTER_HZ. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

/* Instructions per tick: QEMU runs with -icount shift=7, an instruction takes 128 ns. In 2^-32. */
#define INSTRUCTIONS_PER_TICK \
    ((uint32_t)((4294967296000000000u + 64u * BOARD_COUNTER_HZ) / (128u * (uint64_t)BOARD_COUNTER_HZ)))

static uint32_t last_ticks;
static uint64_t cycles;

void clock_start(void)
{
    REGISTER(BOARD_COUNTER_LOAD) = UINT32_MAX;
    REGISTER(BOARD_COUNTER_CONTROL) = BOARD_COUNTER_ENABLE;
    last_ticks = ~REGISTER(BOARD_COUNTER_VALUE);
}

/*
 * Instructions since boot. An instruction takes more than two ticks, so the nearest number of them is exact between any
 * two reads with no sleep between them, as in clock_cmsdk.c. Nothing counts the wraps: a region of more than 2^32 ticks,
 * which takes minutes to emulate, would come out short.
 */
uint64_t port_cycles(void)
{
    uint32_t ticks = ~REGISTER(BOARD_COUNTER_VALUE);
    cycles += ((uint64_t)(uint32_t)(ticks - last_ticks) * INSTRUCTIONS_PER_TICK + 0x80000000u) >> 32;
    last_ticks = ticks;
    return cycles;
}

/* The timers run on in a sleep. */
void clock_slept(void)
{
}
