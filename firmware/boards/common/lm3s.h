/* Luminary's LM3S parts (LM3S6965 data sheet) as QEMU models them. */
#ifndef LAB_LM3S_H
#define LAB_LM3S_H

/* For board_init(). */
void lm3s_init(void);

#endif
