/* Sleep with a wake-up by SysTick (Arm DDI 0403, B3.3; DDI 0419, B3.3), for parts where it counts on in sleep mode. */
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define SYSTICK_CONTROL 0xE000E010u
#define SYSTICK_RELOAD 0xE000E014u
#define SYSTICK_VALUE 0xE000E018u
#define SYSTICK_ENABLE_INTERRUPT_CORE_CLOCK 7u
#define SYSTICK_MAX 0xFFFFFFu
#define ICSR 0xE000ED04u
#define ICSR_CLEAR_SYSTICK (1u << 25)

/* Below this, going to sleep and waking up would take as long. */
#define LEAST_TICKS 256u

/*
 * Where the core's clock is no count of what port_cycles() says (emulators, which count instructions), it wakes too
 * early, and is sent back to sleep.
 */
bool port_doze(uint64_t cycles)
{
    if (cycles < LEAST_TICKS)
        return false;
    cortex_m_mask_interrupts();
    REGISTER(SYSTICK_RELOAD) = cycles < SYSTICK_MAX ? (uint32_t)cycles : SYSTICK_MAX;
    REGISTER(SYSTICK_VALUE) = 0;
    REGISTER(SYSTICK_CONTROL) = SYSTICK_ENABLE_INTERRUPT_CORE_CLOCK;
    cortex_m_wait_for_interrupt();
    REGISTER(SYSTICK_CONTROL) = 0;
    REGISTER(ICSR) = ICSR_CLEAR_SYSTICK;
    clock_slept();
    cortex_m_unmask_interrupts();
    return true;
}
