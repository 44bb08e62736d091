/* Arm MPS2 AN521: the first of two Cortex-M33 in an SSE-200 subsystem, which has neither FPU nor DSP extension, as QEMU's
 * machine mps2-an521 models it. All of it runs Secure. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "mps2-an521"
#define BOARD_CLOCK_HZ 20000000u
#define BOARD_STACK_BYTES 16384u

#define BOARD_UART0 0x50200000u
#define BOARD_UART0_RX_IRQ 32u
#define BOARD_UART1 0x50201000u
#define BOARD_TIMER 0x50000000u
#define BOARD_DUAL_TIMER 0x50002000u
#define BOARD_MARKER 0x50302000u

/* PSRAM, Non-secure. QEMU can back it with a host file, through which the host places blobs. */
#define BOARD_BLOB_ADDRESS 0x80000000u
#define BOARD_BLOB_BYTES 0x01000000u

#endif
