/* Luminary LM3S6965 evaluation board: Cortex-M3 with 64 KB of RAM, as QEMU's machine lm3s6965evb models it. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "lm3s6965evb"
#define BOARD_CLOCK_HZ 50000000u
#define BOARD_STACK_BYTES 8192u

#define BOARD_UART0 0x4000C000u
#define BOARD_UART0_IRQ 5u
#define BOARD_UART1 0x4000D000u

/* The watchdog without its reset: QEMU's general-purpose timers cannot be read. */
#define BOARD_COUNTER_HZ BOARD_CLOCK_HZ
#define BOARD_COUNTER_LOAD 0x40000000u
#define BOARD_COUNTER_VALUE 0x40000004u
#define BOARD_COUNTER_CONTROL 0x40000008u
#define BOARD_COUNTER_ENABLE 1u

/* SSI0 (PL022), to which the board's card slot is wired. */
#define BOARD_SSI 0x40008000u

/* Data register of GPIO port F, address lines for bits 0 and 1 (PF0 is the board's LED). */
#define BOARD_MARKER 0x4002500Cu

#endif
