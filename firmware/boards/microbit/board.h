/* BBC micro:bit V1: nRF51822, Cortex-M0, as QEMU's machine microbit models it. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "microbit"
#define BOARD_CLOCK_HZ 16000000u
#define BOARD_STACK_BYTES 2560u
#define BOARD_HANDLER_STACK_BYTES 1024u

#define BOARD_UART 0x40002000u
#define BOARD_UART_IRQ 2u
#define BOARD_UART_TX_PIN 24u
#define BOARD_UART_RX_PIN 25u
#define BOARD_UART_RING_BYTES 64u

/* 32 bits at 16 MHz and at 62.5 kHz. Real nRF51 parts have 32 bits in TIMER0 only. */
#define BOARD_FINE_TIMER 0x40008000u
#define BOARD_COARSE_TIMER 0x40009000u
#define BOARD_COARSE_TIMER_IRQ 9u
#define BOARD_COARSE_TICK_BITS 8u /* 256 nominal cycles to a tick */

#define BOARD_GPIO 0x50000000u

#endif
