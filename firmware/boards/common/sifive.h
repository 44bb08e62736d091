/* SiFive's FE310 (FE310-G000 manual) as QEMU's machine sifive_e models it. */
#ifndef LAB_SIFIVE_H
#define LAB_SIFIVE_H

/* For board_init(). */
void sifive_init(void);

#endif
