/* Netduino Plus 2: STM32F405RG, Cortex-M4F, as QEMU's machine netduinoplus2 models it. It has no RCC, PWR, FLASH or GPIO
 * (stores are ignored, loads give 0) and so never leaves the internal oscillator; it has USARTs and timers, and 192 KB of
 * RAM in one piece, which no real part has. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#include "stm32f4.h"

#define BOARD_NAME "netduinoplus2"
#define BOARD_STACK_BYTES 16384u
#define BOARD_VECTORS 0x08000000u

/* What the clock tree of the part would be set to: 25 MHz, to 1 MHz, to 336 MHz, to 168 MHz. */
#define BOARD_CLOCK_HZ 168000000u
#define BOARD_HSE_HZ 25000000u
#define BOARD_PLL_M 25u
#define BOARD_PLL_N 336u
#define BOARD_PLL_Q 7u
#define BOARD_PLL_R 0u         /* this part has none */
#define BOARD_VOLTAGE_SCALE 1u /* scale 1 */
#define BOARD_FLASH_WAIT_STATES 5u

#define BOARD_UART STM32_USART1
#define BOARD_UART_IRQ STM32_USART1_IRQ
#define BOARD_UART_CLOCK_DIVIDER STM32_USART1_CLOCK_DIVIDER
#define BOARD_UART_FUNCTION 7u
#define BOARD_UART_TX STM32_PIN('A', 9)
#define BOARD_UART_RX STM32_PIN('A', 10)

/* The marker line: QEMU's second serial port. The register takes stores and does nothing. */
#define BOARD_MARKER_UART STM32_USART2
#define BOARD_MARKER_UART_CLOCK_DIVIDER STM32_USART2_CLOCK_DIVIDER
#define BOARD_MARKER_REGISTER (STM32_GPIO(STM32_PIN('A', 0)) + STM32_GPIO_BSRR)

#endif
