/* Raspberry Pi RP2040: clocks, pins and the first UART. A board's board.h gives crystal, PLL, pins and rate. */
#ifndef LAB_RP2040_H
#define LAB_RP2040_H

#include <stdint.h>

/* SIO: a store sets all pins that SIO drives, and it drives the marker pins only. */
#define RP2040_GPIO_OUT 0xD0000010u

#define RP2040_TIMER 0x40054000u

/* For board_init(): full clock, a microsecond timer, UART and marker pins. */
void rp2040_init(void);

/* For lab_port. */
#define RP2040_BAUD_RATES 4u
extern const uint32_t rp2040_baud_rates[RP2040_BAUD_RATES];
void rp2040_set_baud(uint32_t baud);

#endif
