/* Arm MPS2 AN511: Cortex-M3 DesignStart with little memory, as QEMU's machine mps2-an511 models it. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "mps2-an511"
#define BOARD_CLOCK_HZ 25000000u
#define BOARD_STACK_BYTES 16384u

#define BOARD_UART0 0x40004000u
#define BOARD_UART0_RX_IRQ 0u
#define BOARD_UART1 0x40005000u
#define BOARD_TIMER 0x40000000u
#define BOARD_DUAL_TIMER 0x40002000u
#define BOARD_MARKER 0x40028000u

/* PSRAM. QEMU can back it with a host file, through which the host places blobs. */
#define BOARD_BLOB_ADDRESS 0x21000000u
#define BOARD_BLOB_BYTES 0x01000000u

#endif
