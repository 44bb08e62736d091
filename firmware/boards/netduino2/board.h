/* Netduino 2: STM32F205RF, Cortex-M3, as QEMU's machine netduino2 models it. It has no RCC, PWR, FLASH or GPIO, and where
 * nothing is, stores are ignored and loads give 0: it never leaves the internal oscillator. USARTs and timers are there. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

/* These registers are where the STM32F4 has them, and mean the same (RM0033, RM0090). */
#include "stm32f4.h"

#define BOARD_NAME "netduino2"
#define BOARD_STACK_BYTES 16384u
#define BOARD_VECTORS 0x08000000u

/* What the clock tree of the part would be set to: 25 MHz, to 1 MHz, to 240 MHz, to 120 MHz. */
#define BOARD_CLOCK_HZ 120000000u
#define BOARD_HSE_HZ 25000000u
#define BOARD_PLL_M 25u
#define BOARD_PLL_N 240u
#define BOARD_PLL_Q 5u
#define BOARD_PLL_R 0u         /* this part has none */
#define BOARD_VOLTAGE_SCALE 1u /* scale 1 */
#define BOARD_FLASH_WAIT_STATES 3u

#define BOARD_UART STM32_USART1
#define BOARD_UART_IRQ STM32_USART1_IRQ
#define BOARD_UART_CLOCK_DIVIDER STM32_USART1_CLOCK_DIVIDER
#define BOARD_UART_FUNCTION 7u
#define BOARD_UART_TX STM32_PIN('A', 9)
#define BOARD_UART_RX STM32_PIN('A', 10)
#define BOARD_UART_BAUD 115200u

/* The marker line: QEMU's second serial port. The register takes stores and does nothing. */
#define BOARD_MARKER_UART STM32_USART2
#define BOARD_MARKER_UART_CLOCK_DIVIDER STM32_USART2_CLOCK_DIVIDER
#define BOARD_MARKER_REGISTER (STM32_GPIO(STM32_PIN('A', 0)) + STM32_GPIO_BSRR)

#endif
