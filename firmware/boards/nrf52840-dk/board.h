/* Nordic nRF52840-DK (PCA10056): Cortex-M4F at 64 MHz. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#include "nrf5.h"

#define BOARD_NAME "nrf52840-dk"
#define BOARD_CLOCK_HZ 64000000u
#define BOARD_STACK_BYTES 16384u

/* The debugger's virtual COM port. */
#define BOARD_UART 0x40002000u
#define BOARD_UART_IRQ 2u
#define BOARD_UART_TX_PIN 6u
#define BOARD_UART_RX_PIN 8u
#define BOARD_UART_RING_BYTES 2048u

#define BOARD_GPIO 0x50000000u        /* port 0 */
#define BOARD_MARKER_GPIO 0x50000300u /* port 1; the firmware drives nothing else there */
#define BOARD_MARKER_PINS (3u << LAB_MARKER_SHIFT)

/* TIMER0 at 16 MHz / 2^4: 64 cycles to a tick. Its count can be read where it was captured to, so that is done first. */
#define BOARD_COARSE_TIMER 0x40008000u
#define BOARD_COARSE_TIMER_IRQ 8u
#define BOARD_COARSE_TICK_BITS BOARD_COARSE_BITS
#define BOARD_COARSE_PRESCALER 4u
#define BOARD_COARSE_BITS 6u
#define BOARD_COARSE_COUNT (NRF5_CAPTURE(BOARD_COARSE_TIMER), BOARD_COARSE_TIMER + NRF5_TIMER_CC0)

#endif
