/* Clock of RISC-V boards in QEMU: mcycle, which counts ns of virtual time there. */
#include "clock.h"
#include "port.h"

static uint64_t last_ns;
static uint64_t cycles;

/* Straight-line code, so that every read costs the same; see clock_sse.c. In C clang makes a branch of the mask. */
static uint64_t read_ns(void)
{
    uint32_t before, low, after, low_is_small;
    __asm__ volatile("csrr %0, mcycleh\n"
                     "csrr %1, mcycle\n"
                     "csrr %2, mcycleh\n"
                     "srli %3, %1, 31\n"
                     "addi %3, %3, -1\n"
                     : "=&r"(before), "=&r"(low), "=&r"(after), "=&r"(low_is_small));
    return (uint64_t)(before + ((after - before) & low_is_small)) << 32 | low;
}

void clock_start(void)
{
    last_ns = read_ns();
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns. A sleep ends at any ns, so each
 * read adds its own rounded difference, as in clock_cmsdk.c.
 */
uint64_t port_cycles(void)
{
    uint64_t ns = read_ns();
    cycles += (ns - last_ns + 64u) >> 7;
    last_ns = ns;
    return cycles;
}
