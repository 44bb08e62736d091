/* Registers of STM32F405, F407 and F446 (RM0090, RM0390). */
#ifndef LAB_STM32F4_H
#define LAB_STM32F4_H

#include "stm32.h"

#define STM32_GPIO_BASE 0x40020000u

#define STM32_TIM2 0x40000000u
#define STM32_TIM5 0x40000C00u
/* Timers on APB1 run at half the core's clock: TIM5 ticks once in 2^17 cycles. */
#define STM32_TIM5_PRESCALER_BITS 16u

#define STM32_USART1 0x40011000u
#define STM32_USART2 0x40004400u
#define STM32_USART1_IRQ 37u
#define STM32_USART2_IRQ 38u
/* Core clock over the clock of the bus: USART1 is on APB2, USART2 on APB1. */
#define STM32_USART1_CLOCK_DIVIDER 2u
#define STM32_USART2_CLOCK_DIVIDER 4u

#define STM32_USART_STATUS 0x00u
#define STM32_USART_READ 0x04u
#define STM32_USART_WRITE 0x04u
#define STM32_USART_BRR 0x08u
#define STM32_USART_CR1 0x0Cu
#define STM32_USART_ENABLE (1u << 13)

#endif
