/* 32-bit RISC-V (RV32IMAFDC), as QEMU's machine virt models it: all of its memory is RAM, the first 4 MB serve as flash. */
#ifndef LAB_BOARD_H
#define LAB_BOARD_H

#define BOARD_NAME "riscv32-virt"
#define BOARD_CLOCK_HZ 25000000u /* nominal: the machine names none */
#define BOARD_STACK_BYTES 16384u

#define BOARD_FLASH_IN_RAM
#define BOARD_FLASH_ADDRESS 0x80000000u
#define BOARD_FLASH_BYTES 0x00400000u

#define BOARD_UART 0x10000000u
#define BOARD_UART_STRIDE 1u
#define BOARD_UART_IRQ 10u
#define BOARD_PLIC 0x0C000000u
#define BOARD_CLINT 0x02000000u
#define BOARD_MTIME_HZ 10000000u
#define BOARD_TEST_DEVICE 0x00100000u

/* A word of RAM that nothing else uses: the machine has no pins. QEMU's counting plug-in sees the stores. */
#define BOARD_MARKER 0x80FFFFF0u

/* QEMU can back all of the RAM with a host file, through which the host places blobs. */
#define BOARD_BLOB_ADDRESS 0x81000000u
#define BOARD_BLOB_BYTES 0x01000000u

#endif
