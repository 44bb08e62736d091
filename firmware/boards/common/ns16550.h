/* A 16550 UART (National Semiconductor PC16550D). board.h says where it is and how far apart its registers are. */
#ifndef LAB_NS16550_H
#define LAB_NS16550_H

/* For board_init(). */
void ns16550_init(void);

/* The board's: sleeps until the UART's interrupt is pending. */
void board_wait(void);

#endif
