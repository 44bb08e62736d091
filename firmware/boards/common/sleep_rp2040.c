/* Sleep of the RP2040, ended by an alarm of its timer (data sheet 4.6): SysTick is the clock's. */
#include "board.h"
#include "cortex_m.h"
#include "port.h"
#include "rp2040.h"

#define TIMER_ALARM0 (RP2040_TIMER + 0x10u)
#define TIMER_ARMED (RP2040_TIMER + 0x20u)
#define TIMER_RAW_LOW (RP2040_TIMER + 0x28u)
#define TIMER_INTR (RP2040_TIMER + 0x34u)
#define TIMER_INTE (RP2040_TIMER + 0x38u)
#define TIMER_IRQ_0 0u
#define ALARM0 1u

/* An alarm at a time that has gone by would wait for the timer to wrap. */
#define LEAST_US 20u
#define MOST_US (1u << 30)

bool port_doze(uint64_t cycles)
{
    uint64_t us = cycles / (BOARD_CLOCK_HZ / 1000000u);
    if (us < LEAST_US)
        return false;
    cortex_m_mask_interrupts();
    REGISTER(TIMER_INTR) = ALARM0;
    REGISTER(TIMER_INTE) = ALARM0;
    NVIC_ENABLE(TIMER_IRQ_0) = NVIC_BIT(TIMER_IRQ_0);
    REGISTER(TIMER_ALARM0) = REGISTER(TIMER_RAW_LOW) + (us < MOST_US ? (uint32_t)us : MOST_US);
    cortex_m_wait_for_interrupt();
    REGISTER(TIMER_ARMED) = ALARM0;
    REGISTER(TIMER_INTE) = 0;
    REGISTER(TIMER_INTR) = ALARM0;
    NVIC_DISABLE(TIMER_IRQ_0) = NVIC_BIT(TIMER_IRQ_0);
    NVIC_CLEAR_PENDING(TIMER_IRQ_0) = NVIC_BIT(TIMER_IRQ_0);
    cortex_m_unmask_interrupts();
    return true;
}
