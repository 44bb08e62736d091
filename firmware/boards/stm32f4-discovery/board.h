/* ST STM32F4DISCOVERY and STM32F407G-DISC1 (MB997): STM32F407VG, Cortex-M4F. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#include "stm32f4.h"

#define BOARD_NAME "stm32f4-discovery"
#define BOARD_STACK_BYTES 16384u
#define BOARD_VECTORS 0x08000000u

/* The 8 MHz crystal, to 2 MHz, to 336 MHz, to 168 MHz: the part's most. The data sheet asks for 5 wait states between 150
 * and 168 MHz at 2.7 to 3.6 V. */
#define BOARD_CLOCK_HZ 168000000u
#define BOARD_HSE_HZ 8000000u
#define BOARD_PLL_M 4u
#define BOARD_PLL_N 168u
#define BOARD_PLL_Q 7u
#define BOARD_PLL_R 0u         /* this part has none */
#define BOARD_VOLTAGE_SCALE 1u /* scale 1 */
#define BOARD_FLASH_WAIT_STATES 5u

/* On the pin headers, for a USB adapter: the board's own USB has no serial port. */
#define BOARD_UART STM32_USART2
#define BOARD_UART_IRQ STM32_USART2_IRQ
#define BOARD_UART_CLOCK_DIVIDER STM32_USART2_CLOCK_DIVIDER
#define BOARD_UART_FUNCTION 7u
#define BOARD_UART_TX STM32_PIN('A', 2)
#define BOARD_UART_RX STM32_PIN('A', 3)

/* Free pins without an LED; board.cmake has the number of the first. */
#define BOARD_MARKER STM32_PIN('E', 7)
#define BOARD_LAYER_MARKER STM32_PIN('E', 8)

#define BOARD_COARSE_COUNT (STM32_TIM5 + 0x24u)
#define BOARD_COARSE_BITS (STM32_TIM5_PRESCALER_BITS + 1u)

/* Core-coupled memory, which only the core and a debugger through it can reach. */
#define BOARD_BLOB_ADDRESS 0x10000000u
#define BOARD_BLOB_BYTES 0x00010000u

#endif
