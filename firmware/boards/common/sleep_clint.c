/* Sleep of RISC-V boards, ended by the timer of the core-local interruptor (RISC-V ACLINT specification 1.0, chapter 2). */
#include "board.h"
#include "port.h"
#include "riscv.h"

#define MTIMECMP_LOW (BOARD_CLINT + 0x4000u)
#define MTIMECMP_HIGH (BOARD_CLINT + 0x4004u)
#define MTIME_LOW (BOARD_CLINT + 0xBFF8u)
#define MTIME_HIGH (BOARD_CLINT + 0xBFFCu)
#define MIE_TIMER (1u << 7)

/* Below this, going to sleep and waking up would take as long. */
#define LEAST_TICKS 64u
#define MOST_TICKS (1u << 30)

/* mtime is read and set in halves: while the high half of what it is compared with is all ones nothing is due. */
static void set_alarm(uint32_t ticks)
{
    uint32_t high, low;
    do {
        high = REGISTER(MTIME_HIGH);
        low = REGISTER(MTIME_LOW);
    } while (high != REGISTER(MTIME_HIGH));
    uint64_t due = ((uint64_t)high << 32 | low) + ticks;
    REGISTER(MTIMECMP_LOW) = (uint32_t)due;
    REGISTER(MTIMECMP_HIGH) = (uint32_t)(due >> 32);
}

bool port_doze(uint64_t cycles)
{
    uint64_t ticks = cycles * BOARD_MTIME_HZ / BOARD_CLOCK_HZ;
    if (ticks < LEAST_TICKS)
        return false;
    REGISTER(MTIMECMP_HIGH) = UINT32_MAX;
    set_alarm(ticks < MOST_TICKS ? (uint32_t)ticks : MOST_TICKS);
    /* A pending interrupt ends WFI though interrupts are masked, and is never taken. */
    __asm__ volatile("csrs mie, %0\n wfi\n csrc mie, %0" ::"r"(MIE_TIMER) : "memory");
    REGISTER(MTIMECMP_HIGH) = UINT32_MAX;
    return true;
}
