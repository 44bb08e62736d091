/* Registers of STM32H743 (RM0433). */
#ifndef LAB_STM32H7_H
#define LAB_STM32H7_H

#include "stm32.h"

#define STM32_GPIO_BASE 0x58020000u

#define STM32_TIM5 0x40000C00u
/* Timers on APB1 run at half the core's clock: TIM5 ticks once in 2^17 cycles. */
#define STM32_TIM5_PRESCALER_BITS 16u

#define STM32_USART3 0x40004800u
#define STM32_USART3_IRQ 39u
/* Core clock over the clock of the bus, APB1. */
#define STM32_USART3_CLOCK_DIVIDER 4u

#define STM32_USART_CR1 0x00u
#define STM32_USART_BRR 0x0Cu
#define STM32_USART_STATUS 0x1Cu
#define STM32_USART_CLEAR 0x20u
#define STM32_USART_READ 0x24u
#define STM32_USART_WRITE 0x28u
#define STM32_USART_ENABLE (1u << 0)

#endif
