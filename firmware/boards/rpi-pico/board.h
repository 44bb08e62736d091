/* Raspberry Pi Pico: RP2040, two Cortex-M0+ of which the lab uses one, at 125 MHz. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "rpi-pico"
#define BOARD_CLOCK_HZ 125000000u
#define BOARD_STACK_BYTES 16384u

/* 12 MHz crystal; the PLL's oscillator runs at 12 MHz * 125 = 1500 MHz, divided by 6 and 2. */
#define BOARD_CRYSTAL_HZ 12000000u
#define BOARD_PLL_MULTIPLIER 125u
#define BOARD_PLL_DIVIDER1 6u
#define BOARD_PLL_DIVIDER2 2u

#define BOARD_UART_TX_PIN 0u
#define BOARD_UART_RX_PIN 1u
#define BOARD_UART_RING_BYTES 2048u

#define BOARD_MARKER_PIN LAB_MARKER_SHIFT /* and the next one */

#endif
