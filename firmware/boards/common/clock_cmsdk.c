/* Clock of boards with a CMSDK timer and a CMSDK dual timer (Arm DDI 0479), both at the core's clock. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define TIMER_CTRL 0x0u
#define TIMER_VALUE 0x4u
#define TIMER_RELOAD 0x8u

#define DUAL_VALUE 0x4u
#define DUAL_CONTROL 0x8u
#define DUAL_ENABLE (1u << 7)
#define DUAL_PRESCALE_256 (2u << 2)
#define DUAL_32_BIT (1u << 1)

/* Whole for 20, 25 and 32 MHz. */
#define QUARTER_NS_PER_TICK (4000000000u / BOARD_CLOCK_HZ)

static uint32_t last_fine;
static uint32_t last_coarse;
static uint64_t cycles;

void clock_start(void)
{
    REGISTER(BOARD_TIMER + TIMER_RELOAD) = UINT32_MAX;
    REGISTER(BOARD_TIMER + TIMER_VALUE) = UINT32_MAX;
    REGISTER(BOARD_DUAL_TIMER + DUAL_CONTROL) = DUAL_32_BIT | DUAL_PRESCALE_256;
    REGISTER(BOARD_DUAL_TIMER + DUAL_CONTROL) = DUAL_ENABLE | DUAL_32_BIT | DUAL_PRESCALE_256;
    REGISTER(BOARD_TIMER + TIMER_CTRL) = 1;
    last_coarse = ~REGISTER(BOARD_DUAL_TIMER + DUAL_VALUE);
    last_fine = ~REGISTER(BOARD_TIMER + TIMER_VALUE);
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns, a 25 MHz tick 40 ns, so n
 * instructions are 3.2 n ticks (2.56 n at 20 MHz), less than one tick off; the nearest n is therefore exact between any
 * two reads with no sleep between them. Each read adds its own rounded difference: rounding absolute ticks would not be
 * exact, since a sleep ends anywhere between two ticks.
 *
 * The fine timer wraps after 1 G instructions or more. The coarse one counts the same ticks divided by 256 and tells how
 * often the fine one wrapped between two reads. Straight-line code: every read costs the same.
 */
uint64_t port_cycles(void)
{
    uint32_t coarse = ~REGISTER(BOARD_DUAL_TIMER + DUAL_VALUE);
    uint32_t fine = ~REGISTER(BOARD_TIMER + TIMER_VALUE);
    uint64_t about = (uint64_t)(uint32_t)(coarse - last_coarse) << 8;
    uint64_t ticks = (uint32_t)(fine - last_fine);
    ticks += (about - ticks + 0x80000000u) & 0xFFFFFFFF00000000u;
    cycles += (ticks * QUARTER_NS_PER_TICK + 256u) >> 9;
    last_coarse = coarse;
    last_fine = fine;
    return cycles;
}

/* The timers run on in a sleep. */
void clock_slept(void)
{
}
