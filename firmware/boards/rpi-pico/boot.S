/*
 * What the RP2040's boot ROM runs first (data sheet 2.8.1.3): it copies 256 bytes from the start of flash to RAM,
 * checks their CRC and calls them. They have to make the flash readable in place and start the program behind them.
 *
 * The flash is the Pico's W25Q16JV. It is read with its fast quad read (EBh), whose command byte is left out after the
 * first time: the mode byte A0h asks for that. An access then takes 8 clocks of address and mode, 4 that the flash
 * needs and 8 of data, at half the core's clock.
 *
 * Runs anywhere, uses no stack. scripts/rp2040_boot.py makes boot.h of it.
 */
    .syntax unified
    .cpu cortex-m0plus
    .thumb
    .text

    /* Synchronous serial interface: data sheet 4.10. */
    .equ SSI, 0x18000000
    .equ CTRLR0, 0x00
    .equ CTRLR1, 0x04
    .equ SSIENR, 0x08
    .equ SER, 0x10
    .equ BAUDR, 0x14
    .equ SR, 0x28
    .equ DR0, 0x60
    .equ RX_SAMPLE_DLY, 0xF0
    .equ SPI_CTRLR0, 0xF4

    .equ SR_BUSY, 1 << 0
    .equ SR_TX_EMPTY, 1 << 2

    .equ CTRLR0_BYTES, 7 << 16                          /* 8-bit frames, one line, both directions */
    .equ CTRLR0_QUAD_READ, 2 << 21 | 31 << 16 | 3 << 8  /* 32-bit frames, four lines, read after address */
    .equ QUAD_FIRST, 4 << 11 | 2 << 8 | 8 << 2 | 1      /* 4 wait clocks, 8-bit command on one line, 32 bits on four */
    .equ QUAD_NEXT, 0xA0 << 24 | 4 << 11 | 8 << 2 | 2   /* no command; A0h follows each address */

    /* Pads of the flash's lines: data sheet 2.19.6.4. */
    .equ PADS_QSPI, 0x40020000
    .equ PAD_SCLK, 0x04
    .equ PAD_SD0, 0x08
    .equ PAD_FAST_8_MA, 0x21
    .equ PAD_NO_SCHMITT, 0x50                           /* as at reset, without the Schmitt trigger's delay */

    .equ READ_STATUS1, 0x05
    .equ READ_STATUS2, 0x35
    .equ WRITE_ENABLE, 0x06
    .equ WRITE_STATUS, 0x01
    .equ STATUS1_BUSY, 1 << 0
    .equ STATUS2_QUAD, 1 << 1

    .equ VECTORS, 0x10000100
    .equ VTOR, 0xE000ED08

boot:
    ldr     r3, =PADS_QSPI
    movs    r0, #PAD_FAST_8_MA
    str     r0, [r3, #PAD_SCLK]
    movs    r0, #PAD_NO_SCHMITT
    str     r0, [r3, #PAD_SD0]
    str     r0, [r3, #PAD_SD0 + 4]
    str     r0, [r3, #PAD_SD0 + 8]
    str     r0, [r3, #PAD_SD0 + 12]

    ldr     r3, =SSI
    movs    r4, #0
    movs    r5, #1
    str     r4, [r3, #SSIENR]
    movs    r0, #2
    str     r0, [r3, #BAUDR]
    movs    r0, #RX_SAMPLE_DLY
    str     r5, [r3, r0]
    ldr     r0, =CTRLR0_BYTES
    str     r0, [r3, #CTRLR0]
    str     r5, [r3, #SER]
    str     r5, [r3, #SSIENR]

    /* Four lines have to be allowed in the flash's second status register, which keeps it without power. */
    movs    r0, #READ_STATUS2
    bl      read_status
    movs    r1, #STATUS2_QUAD
    tst     r0, r1
    bne     quad_allowed
    movs    r0, #WRITE_ENABLE
    str     r0, [r3, #DR0]
    bl      wait_sent
    ldr     r0, [r3, #DR0]
    movs    r0, #WRITE_STATUS
    str     r0, [r3, #DR0]
    str     r4, [r3, #DR0]
    str     r1, [r3, #DR0]
    bl      wait_sent
    ldr     r0, [r3, #DR0]
    ldr     r0, [r3, #DR0]
    ldr     r0, [r3, #DR0]
writing:
    movs    r0, #READ_STATUS1
    bl      read_status
    movs    r1, #STATUS1_BUSY
    tst     r0, r1
    bne     writing

quad_allowed:
    str     r4, [r3, #SSIENR]
    ldr     r0, =CTRLR0_QUAD_READ
    str     r0, [r3, #CTRLR0]
    str     r4, [r3, #CTRLR1]
    ldr     r0, =QUAD_FIRST
    movs    r2, #SPI_CTRLR0
    str     r0, [r3, r2]
    str     r5, [r3, #SSIENR]
    /* One read with the command byte; the mode byte that goes with its address makes it the last such. */
    movs    r0, #0xEB
    str     r0, [r3, #DR0]
    movs    r0, #0xA0
    str     r0, [r3, #DR0]
    bl      wait_sent
    str     r4, [r3, #SSIENR]
    ldr     r0, =QUAD_NEXT
    str     r0, [r3, r2]
    str     r5, [r3, #SSIENR]

    ldr     r0, =VECTORS
    ldr     r1, =VTOR
    str     r0, [r1]
    ldmia   r0!, {r1, r2}
    msr     msp, r1
    bx      r2

/* Command in r0, answer in r0; changes r6, r7. */
read_status:
    mov     r6, lr
    str     r0, [r3, #DR0]
    str     r0, [r3, #DR0]
    bl      wait_sent
    ldr     r0, [r3, #DR0]
    ldr     r0, [r3, #DR0]
    bx      r6

/* Changes r0, r7. */
wait_sent:
    movs    r7, #SR_TX_EMPTY
1:  ldr     r0, [r3, #SR]
    tst     r0, r7
    beq     1b
    movs    r7, #SR_BUSY
2:  ldr     r0, [r3, #SR]
    tst     r0, r7
    bne     2b
    bx      lr

    .pool
