/* Start-up and traps of 32-bit RISC-V boards, which run in machine mode throughout. */
#ifndef LAB_RISCV_H
#define LAB_RISCV_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Platform-level interrupt controller (RISC-V PLIC specification 1.0), context 0: machine mode of hart 0. */
#define PLIC_PRIORITY(irq) REGISTER(BOARD_PLIC + 4u * (irq))
#define PLIC_ENABLE(irq) REGISTER(BOARD_PLIC + 0x2000u + 4u * ((irq) / 32u))
#define PLIC_THRESHOLD REGISTER(BOARD_PLIC + 0x200000u)
#define PLIC_CLAIM REGISTER(BOARD_PLIC + 0x200004u)

#define MIE_EXTERNAL (1u << 11)

/* The runner's stack; traps have a stack of their own and so survive its overflow. */
extern uint32_t lab_stack[];
extern const uint32_t lab_stack_bytes;

/* The board's: brings up clock and lines. Called once, before the runner. */
void board_init(void);

/* Starts the program again, as from reset; peripherals stay as they are. */
void riscv_restart(void) __attribute__((noreturn));

/* Has `irq` end WFI. Interrupts are never taken: they stay masked. */
void riscv_wake_by(uint32_t irq);

/* Sleeps until such an interrupt is pending, and answers it. */
void riscv_wait(void);

#endif
