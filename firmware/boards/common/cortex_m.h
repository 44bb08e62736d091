/* Start-up and faults of Cortex-M boards. */
#ifndef LAB_CORTEX_M_H
#define LAB_CORTEX_M_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define NVIC_ENABLE(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_DISABLE(irq) REGISTER(0xE000E180u + 4u * ((irq) / 32u))
#define NVIC_CLEAR_PENDING(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))

/* Between mask and unmask a pending interrupt still ends the wait, and is not taken: nothing is lost before the sleep. */
static inline void cortex_m_mask_interrupts(void)
{
    __asm__ volatile("cpsid i" ::: "memory");
}

static inline void cortex_m_wait_for_interrupt(void)
{
    __asm__ volatile("dsb\n wfi" ::: "memory");
}

/* What was cleared before is not taken: the stores to timer and controller are done first. */
static inline void cortex_m_unmask_interrupts(void)
{
    __asm__ volatile("dsb\n isb\n cpsie i" ::: "memory");
}

/* The runner's stack, on the process stack pointer; faults have a stack of their own and so survive its overflow. */
extern uint32_t lab_stack[];
extern const uint32_t lab_stack_bytes;

/* The board's: brings up clock and lines. Called once, before the runner. */
void board_init(void);

/* The board's, where it enables interrupts: takes all of them. */
void board_interrupt(void);

#endif
