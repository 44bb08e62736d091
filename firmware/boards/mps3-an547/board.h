/* Arm MPS3 AN547: Cortex-M55 in an SSE-300 subsystem, as QEMU's machine mps3-an547 models it. All of it runs Secure. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "mps3-an547"
#define BOARD_CLOCK_HZ 32000000u
#define BOARD_STACK_BYTES 16384u

#define BOARD_UART0 0x59303000u
#define BOARD_UART0_RX_IRQ 33u
#define BOARD_UART1 0x59304000u
#define BOARD_COUNTER_CONTROL 0x58100000u
#define BOARD_COUNTER 0x58101000u
#define BOARD_MARKER 0x59302000u

/* The first of the 2 GB of DDR. QEMU can back them with a host file, through which the host places blobs. */
#define BOARD_BLOB_ADDRESS 0x60000000u
#define BOARD_BLOB_BYTES 0x01000000u

#endif
