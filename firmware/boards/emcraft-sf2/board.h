/* Emcraft SmartFusion2 kit: M2S010, Cortex-M3 with 64 KB of RAM, as QEMU's machine emcraft-sf2 models it. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "emcraft-sf2"
#define BOARD_CLOCK_HZ 142000000u
#define BOARD_STACK_BYTES 8192u

#define BOARD_UART 0x40000000u
#define BOARD_UART_STRIDE 4u
#define BOARD_UART_IRQ 10u

/* Timer 1, which QEMU 7.2 counts at 100 MHz whatever the core does (measured). */
#define BOARD_COUNTER_HZ 100000000u
#define BOARD_COUNTER_VALUE 0x40004000u
#define BOARD_COUNTER_LOAD 0x40004004u
#define BOARD_COUNTER_CONTROL 0x4000400Cu
#define BOARD_COUNTER_ENABLE 1u

/* Background load value of timer 2, which is never started: QEMU has no GPIO here. */
#define BOARD_MARKER 0x40004020u

#endif
