/* Lines of Arm's MPS2 and MPS3 boards, as QEMU models them. A board's board.h gives the addresses. */
#ifndef LAB_MPS2_H
#define LAB_MPS2_H

/* For board_init(). */
void mps2_init(void);

#endif
