/* ST NUCLEO-F446RE (MB1136): STM32F446RE, Cortex-M4F. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#include "stm32f4.h"

#define BOARD_NAME "nucleo-f446re"
#define BOARD_STACK_BYTES 16384u
#define BOARD_VECTORS 0x08000000u

/* The ST-LINK's 8 MHz on OSC_IN, to 2 MHz, to 360 MHz, to 180 MHz: the part's most, with over-drive. The data sheet asks
 * for 5 wait states between 150 and 180 MHz at 2.7 to 3.6 V. */
#define BOARD_CLOCK_HZ 180000000u
#define BOARD_HSE_HZ 8000000u
#define BOARD_HSE_BYPASS
#define BOARD_PLL_M 4u
#define BOARD_PLL_N 180u
#define BOARD_PLL_Q 8u
#define BOARD_PLL_R 2u
#define BOARD_VOLTAGE_SCALE 3u /* scale 1 */
#define BOARD_OVERDRIVE
#define BOARD_FLASH_WAIT_STATES 5u

/* The ST-LINK's serial port. */
#define BOARD_UART STM32_USART2
#define BOARD_UART_IRQ STM32_USART2_IRQ
#define BOARD_UART_CLOCK_DIVIDER STM32_USART2_CLOCK_DIVIDER
#define BOARD_UART_FUNCTION 7u
#define BOARD_UART_TX STM32_PIN('A', 2)
#define BOARD_UART_RX STM32_PIN('A', 3)

/* Arduino D7 and D8; board.cmake has the number of the first. */
#define BOARD_MARKER STM32_PIN('A', 8)
#define BOARD_LAYER_MARKER STM32_PIN('A', 9)

#define BOARD_COARSE_COUNT (STM32_TIM5 + 0x24u)
#define BOARD_COARSE_BITS (STM32_TIM5_PRESCALER_BITS + 1u)

#endif
