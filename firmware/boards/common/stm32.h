/* What the boards with an STM32 share: pins, the UART, a coarse timer. Each family has a header of its own besides. */
#ifndef LAB_STM32_H
#define LAB_STM32_H

#include <stdbool.h>
#include <stdint.h>

/* PA2 is STM32_PIN('A', 2): the port counts in sixteens. */
#define STM32_PIN(port, number) (((port) - 'A') * 16u + (number))
#define STM32_PIN_PORT(pin) ((pin) / 16u)
#define STM32_PIN_NUMBER(pin) ((pin) % 16u)

#define STM32_GPIO(pin) (STM32_GPIO_BASE + 0x400u * STM32_PIN_PORT(pin))
#define STM32_GPIO_BSRR 0x18u

#define STM32_BAUD_RATES 4u
extern uint32_t stm32_baud_rates[STM32_BAUD_RATES];

/* For lab_port; the first rate is that after a reset. Once the lines are started. */
void stm32_set_baud(uint32_t baud);

/* Core clock as it came up, Hz. */
extern uint32_t stm32_core_hz;

/* Brings up the clock tree: full clock from the external oscillator, or the internal one where that does not start. */
void stm32_start_clock(void);

/* Pins, UART and timer. The clocks of their registers run, and stm32_core_hz is right. */
void stm32_start_lines(void);

/* Whether the masked bits of a register took that value in time. */
bool stm32_becomes(uint32_t address, uint32_t mask, uint32_t value);

#endif
