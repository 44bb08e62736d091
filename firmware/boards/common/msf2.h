/* SmartFusion2 (Microchip UG0331) as QEMU models it: a 16550 UART and the timers. */
#ifndef LAB_MSF2_H
#define LAB_MSF2_H

/* For board_init(). */
void msf2_init(void);

#endif
