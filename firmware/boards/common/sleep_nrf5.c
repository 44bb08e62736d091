/* Sleep of Nordic's nRF5 parts, ended by a compare of the timer that the clock counts with: their SysTick, where they have
 * one, stands while the core sleeps. */
#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "nrf5.h"
#include "port.h"

#define TIMER_CAPTURE1 (BOARD_COARSE_TIMER + 0x044u)
#define TIMER_COMPARE1 (BOARD_COARSE_TIMER + 0x144u)
#define TIMER_INTENSET (BOARD_COARSE_TIMER + 0x304u)
#define TIMER_INTENCLR (BOARD_COARSE_TIMER + 0x308u)
#define TIMER_CC1 (BOARD_COARSE_TIMER + 0x544u)
#define INTERRUPT_COMPARE1 (1u << 17)

/* A compare at a count that has gone by would wait for the timer to wrap. */
#define LEAST_TICKS 4u
#define MOST_TICKS (1u << 30)

bool port_doze(uint64_t cycles)
{
    uint64_t ticks = cycles >> BOARD_COARSE_TICK_BITS;
    if (ticks < LEAST_TICKS)
        return false;
    cortex_m_mask_interrupts();
    REGISTER(TIMER_CAPTURE1) = NRF5_TRIGGER;
    REGISTER(TIMER_CC1) += ticks < MOST_TICKS ? (uint32_t)ticks : MOST_TICKS;
    REGISTER(TIMER_COMPARE1) = 0;
    REGISTER(TIMER_INTENSET) = INTERRUPT_COMPARE1;
    NVIC_ENABLE(BOARD_COARSE_TIMER_IRQ) = NVIC_BIT(BOARD_COARSE_TIMER_IRQ);
    cortex_m_wait_for_interrupt();
    REGISTER(TIMER_INTENCLR) = INTERRUPT_COMPARE1;
    REGISTER(TIMER_COMPARE1) = 0;
    NVIC_DISABLE(BOARD_COARSE_TIMER_IRQ) = NVIC_BIT(BOARD_COARSE_TIMER_IRQ);
    NVIC_CLEAR_PENDING(BOARD_COARSE_TIMER_IRQ) = NVIC_BIT(BOARD_COARSE_TIMER_IRQ);
    clock_slept();
    cortex_m_unmask_interrupts();
    return true;
}
