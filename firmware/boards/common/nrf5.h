/* The UART of Nordic's nRF51 and nRF52 parts, without EasyDMA. A board's board.h gives addresses, pins and rate. */
#ifndef LAB_NRF5_H
#define LAB_NRF5_H

#include <stdint.h>

/* GPIO, offsets from a port's base. */
#define NRF5_GPIO_OUT 0x504u
#define NRF5_GPIO_OUTSET 0x508u
#define NRF5_GPIO_DIRSET 0x518u
#define NRF5_GPIO_PIN_CNF(pin) (0x700u + 4u * (pin))

/* TIMER, offsets from its base. */
#define NRF5_TIMER_START 0x000u
#define NRF5_TIMER_CAPTURE0 0x040u
#define NRF5_TIMER_BITMODE 0x508u
#define NRF5_TIMER_PRESCALER 0x510u
#define NRF5_TIMER_CC0 0x540u
#define NRF5_TIMER_32_BIT 3u

/* A task starts where 1 is written to it. */
#define NRF5_TRIGGER 1u
#define NRF5_CAPTURE(timer) (REGISTER((timer) + NRF5_TIMER_CAPTURE0) = NRF5_TRIGGER)

/* For board_init(): brings up the UART. */
void nrf5_init(void);

/* For lab_port. */
#define NRF5_BAUD_RATES 3u
extern const uint32_t nrf5_baud_rates[NRF5_BAUD_RATES];
void nrf5_set_baud(uint32_t baud);

#endif
