/* Start-up and faults of Cortex-M boards. */
#ifndef LAB_CORTEX_M_H
#define LAB_CORTEX_M_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define NVIC_ENABLE(irq) REGISTER(0xE000E100u + 4u * ((irq) / 32u))
#define NVIC_CLEAR_PENDING(irq) REGISTER(0xE000E280u + 4u * ((irq) / 32u))
#define NVIC_BIT(irq) (1u << ((irq) % 32u))

/* The runner's stack, on the process stack pointer; faults have a stack of their own and so survive its overflow. */
extern uint32_t lab_stack[];
extern const uint32_t lab_stack_bytes;

/* The board's: brings up clock and lines. Called once, before the runner. */
void board_init(void);

#endif
