/* Lines of Arm's MPS2 and MPS3 boards, as QEMU models them. A board's board.h gives the addresses. */
#ifndef LAB_MPS2_H
#define LAB_MPS2_H

#include <stdint.h>

/* For board_init(). */
void mps2_init(void);

/* For lab_port, where the UART's clock is the board's. */
#define MPS2_BAUD_RATES 4u
extern const uint32_t mps2_baud_rates[MPS2_BAUD_RATES];
void mps2_set_baud(uint32_t baud);

#endif
