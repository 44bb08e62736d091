/* QEMU's RISC-V machine "virt". */
#ifndef LAB_RISCV_VIRT_H
#define LAB_RISCV_VIRT_H

/* For board_init(). */
void riscv_virt_init(void);

#endif
