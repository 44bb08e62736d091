/* Flash algorithm of boards whose flash is emulated by plain memory: the functions that CMSIS names for one, in
 * position-independent Armv6-M code, so that every Cortex-M runs it. In assembly so that its bytes do not depend on the
 * version of a compiler. A sector is ERASE_BYTES long. */
    .syntax unified
    .cpu cortex-m0
    .thumb
    .equ ERASE_BYTES, 0x4000

/* Where the functions return to: the debugger notices that the core has halted here. */
    bkpt #0
    nop

/* int Init(address, clock, function) and int UnInit(function): nothing to prepare. */
    .global Init
    .global UnInit
    .thumb_func
Init:
    .thumb_func
UnInit:
    movs r0, #0
    bx lr

/* int EraseSector(address) */
    .global EraseSector
    .thumb_func
EraseSector:
    ldr r1, erase_bytes
    movs r2, #0
    mvns r2, r2
1:  stmia r0!, {r2}
    subs r1, #4
    bne 1b
    movs r0, #0
    bx lr

/* int ProgramPage(address, size, buffer): as flash does, bits only fall; 1 if what stands there then is not the page. */
    .global ProgramPage
    .thumb_func
ProgramPage:
    push {r4, lr}
    b 3f
2:  ldmia r2!, {r3}
    ldr r4, [r0]
    ands r4, r3
    stmia r0!, {r4}
    cmp r4, r3
    bne 4f
    subs r1, #4
3:  cmp r1, #0
    bgt 2b
    movs r0, #0
    pop {r4, pc}
4:  movs r0, #1
    pop {r4, pc}

    .align 2
erase_bytes:
    .word ERASE_BYTES
