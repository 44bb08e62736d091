/* Clock of boards with an SSE-300 system counter (Arm 101773) at 32 MHz. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define CONTROL_ENABLE 1u
#define COUNTER_LOW 0x0u
#define COUNTER_HIGH 0x4u

static uint64_t last_ticks;
static uint64_t cycles;

/* Straight-line code, so that every read costs the same: where the low half is small, it may have wrapped between the
 * first two reads, and the high half read last belongs to it; where it is large, the one read first does. */
static uint64_t read_ticks(void)
{
    uint32_t before = REGISTER(BOARD_COUNTER + COUNTER_HIGH);
    uint32_t low = REGISTER(BOARD_COUNTER + COUNTER_LOW);
    uint32_t after = REGISTER(BOARD_COUNTER + COUNTER_HIGH);
    uint32_t low_is_small = (low >> 31) - 1u;
    /* Nobody knows its value, so clang makes no branch of it. */
    __asm__("" : "+r"(low_is_small));
    return (uint64_t)(before + ((after - before) & low_is_small)) << 32 | low;
}

void clock_start(void)
{
    REGISTER(BOARD_COUNTER_CONTROL) = CONTROL_ENABLE;
    last_ticks = read_ticks();
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns, a 32 MHz tick 31.25 ns, so n
 * instructions are 4.096 n = 512 n / 125 ticks, less than one tick off; the nearest n is therefore exact between any two
 * reads with no sleep between them. Each read adds its own rounded difference, as in clock_cmsdk.c.
 */
uint64_t port_cycles(void)
{
    uint64_t ticks = read_ticks();
    cycles += ((ticks - last_ticks) * 125u + 256u) >> 9;
    last_ticks = ticks;
    return cycles;
}

/* The timers run on in a sleep. */
void clock_slept(void)
{
}
