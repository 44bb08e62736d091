/* ST NUCLEO-H743ZI (MB1137) and NUCLEO-H743ZI2 (MB1364): STM32H743ZI, Cortex-M7. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#include "stm32h7.h"

#define BOARD_NAME "nucleo-h743zi"
#define BOARD_STACK_BYTES 16384u
#define BOARD_VECTORS 0x08000000u

/* The ST-LINK's 8 MHz on OSC_IN, to 800 MHz, to 400 MHz; AXI and AHB at 200 MHz, APB at 100 MHz. That is the most of voltage
 * scale 1, which every revision has; 480 MHz needs scale 0 and silicon of revision V, which boards of the first years
 * do not have. RM0433 asks for 2 wait states and a programming delay of 2 between 185 and 210 MHz of AXI clock. */
#define BOARD_CLOCK_HZ 400000000u
#define BOARD_HSE_HZ 8000000u
#define BOARD_PLL_M 1u
#define BOARD_PLL_N 100u
#define BOARD_PLL_P 2u
#define BOARD_FLASH_WAIT_STATES 2u
#define BOARD_FLASH_PROGRAMMING_DELAY 2u

/* The ST-LINK's serial port. */
#define BOARD_UART STM32_USART3
#define BOARD_UART_IRQ STM32_USART3_IRQ
#define BOARD_UART_CLOCK_DIVIDER STM32_USART3_CLOCK_DIVIDER
#define BOARD_UART_FUNCTION 7u
#define BOARD_UART_TX STM32_PIN('D', 8)
#define BOARD_UART_RX STM32_PIN('D', 9)

/* Arduino D10 and D9, the same pins on both boards; board.cmake has the number of the first. */
#define BOARD_MARKER STM32_PIN('D', 14)
#define BOARD_LAYER_MARKER STM32_PIN('D', 15)

#define BOARD_COARSE_COUNT (STM32_TIM5 + 0x24u)
#define BOARD_COARSE_BITS (STM32_TIM5_PRESCALER_BITS + 1u)

/*
 * RAM is the DTCM, which no cache stands before: what a debugger reads of stack and variables is what the core has
 * written, and what it stores as blobs is what the core loads (pyOCD reads and writes behind the data cache). The arena
 * lies in the AXI SRAM, the one piece that is large enough, behind the cache.
 */

#endif
