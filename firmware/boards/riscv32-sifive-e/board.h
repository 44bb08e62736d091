/* SiFive E31 (RV32IMAC) with 16 KB of RAM, as QEMU's machine sifive_e models it. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "riscv32-sifive-e"
#define BOARD_CLOCK_HZ 16000000u /* the crystal of the HiFive1 */
#define BOARD_STACK_BYTES 2560u
#define BOARD_HANDLER_STACK_BYTES 1024u

#define BOARD_UART0 0x10013000u
#define BOARD_UART0_IRQ 3u
#define BOARD_UART1 0x10023000u
#define BOARD_PLIC 0x0C000000u
#define BOARD_CLINT 0x02000000u
#define BOARD_MTIME_HZ 10000000u /* as QEMU counts; on the part 32768 Hz */

/* GPIO output values. */
#define BOARD_MARKER 0x1001200Cu

#endif
