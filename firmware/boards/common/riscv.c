#include "riscv.h"

#include "board.h"
#include "memory.h"
#include "port.h"
#include "session.h"

#include <stdbool.h>
#include <stddef.h>

/* What a trap's report takes with room to spare; a board with little RAM says less in its board.h. */
#ifndef BOARD_HANDLER_STACK_BYTES
#define BOARD_HANDLER_STACK_BYTES 2048u
#endif
#define TRAP_FRAME_WORDS 32u
#define MSTATUS_FLOAT_INITIAL (1u << 13)

/* RISC-V privileged architecture 20211203, 3.7.1: locked entries bind machine mode, too. */
#define PMP_LOCKED_ALIGNED_READ_EXECUTE 0x9Du

#define WRITE_CSR(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"(value) : "memory")

static inline uint32_t read_mcause(void)
{
    uint32_t value;
    __asm__ volatile("csrr %0, mcause" : "=r"(value));
    return value;
}

static inline uint32_t read_mtval(void)
{
    uint32_t value;
    __asm__ volatile("csrr %0, mtval" : "=r"(value));
    return value;
}

extern uint32_t lab_data_start[], lab_data_end[], lab_data_image[], lab_bss_start[], lab_bss_end[];

uint32_t lab_stack[BOARD_STACK_BYTES / sizeof(uint32_t)] __attribute__((aligned(16), section(".stack")));
const uint32_t lab_stack_bytes = sizeof lab_stack;
uint32_t riscv_trap_stack[BOARD_HANDLER_STACK_BYTES / sizeof(uint32_t)]
    __attribute__((aligned(16), section(".noinit")));

/* ---- start-up ---- */

__attribute__((naked, noreturn)) static void run_on_stack(uint32_t *top __attribute__((unused)))
{
    __asm__ volatile("mv sp, a0\n"
                     "call board_init\n"
                     "call lab_main\n");
}

__attribute__((naked, aligned(4), used)) static void trap_entry(void);

__attribute__((noreturn, used)) void riscv_start(void)
{
    WRITE_CSR(mtvec, (uint32_t)(uintptr_t)trap_entry);
    WRITE_CSR(mie, 0u);
    /* A restart is a jump: without this the last trap would look like one of now. */
    WRITE_CSR(mcause, 0u);
    WRITE_CSR(mtval, 0u);
#ifdef __riscv_flen
    __asm__ volatile("csrs mstatus, %0" ::"r"(MSTATUS_FLOAT_INITIAL));
#endif
#ifdef BOARD_FLASH_IN_RAM
    /* Read-only, as flash is; else what overflows the stack, which lies above it, would change the program. */
    WRITE_CSR(pmpaddr0, (BOARD_FLASH_ADDRESS >> 2) | ((BOARD_FLASH_BYTES >> 3) - 1u));
    WRITE_CSR(pmpcfg0, PMP_LOCKED_ALIGNED_READ_EXECUTE);
#endif
    for (uint32_t *from = lab_data_image, *to = lab_data_start; to < lab_data_end;)
        *to++ = *from++;
    for (uint32_t *to = lab_bss_start; to < lab_bss_end;)
        *to++ = 0;
    memory_paint_stack(lab_stack, lab_stack_bytes);
    WRITE_CSR(mscratch, (uint32_t)(uintptr_t)riscv_trap_stack + (uint32_t)sizeof riscv_trap_stack);
    run_on_stack(lab_stack + sizeof lab_stack / sizeof lab_stack[0]);
}

/* First in flash, where the boot ROM jumps to. The stack of traps serves until the runner's is painted. */
__attribute__((naked, noreturn, used, section(".vectors"))) void reset_handler(void)
{
    __asm__ volatile("csrci mstatus, 8\n"
                     "la sp, riscv_trap_stack\n"
                     "li t0, %0\n"
                     "add sp, sp, t0\n"
                     "tail riscv_start\n" ::"i"(BOARD_HANDLER_STACK_BYTES));
}

void riscv_restart(void)
{
    reset_handler();
}

/* ---- traps ---- */

static const char *cause_text(uint32_t cause)
{
    static const char *const texts[] = {
        "instruction address misaligned", "instruction access fault", "illegal instruction", "breakpoint",
        "load address misaligned", "load access fault", "store address misaligned", "store access fault",
    };
    return cause < sizeof texts / sizeof texts[0] ? texts[cause] : "the processor took a trap";
}

/* `frame` holds pc, then x1 to x31. */
__attribute__((noreturn, used)) void riscv_trap_report(const uint32_t *frame)
{
    static const char *const names[] = {
        "pc", "ra", "sp", "s0", "s1", "a0", "a1", "a2", "a3", "a4",  "a5",
        "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11",
    };
    static const uint8_t places[] = {0, 1, 2, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27};
    static const char *told[SESSION_FAULT_REGISTERS] = {"mcause", "mtval"};
    static uint32_t values[SESSION_FAULT_REGISTERS];
    uint32_t count = 2;
    values[0] = read_mcause();
    values[1] = read_mtval();
    for (uint32_t i = 0; i < sizeof places; i++) {
        told[count] = names[i];
        values[count++] = frame[places[i]];
    }
    uint32_t sp = frame[2];
    uintptr_t low = (uintptr_t)lab_stack;
    bool overflowed = sp < low || !memory_stack_guard_intact(lab_stack);
    const uint8_t *from = (const uint8_t *)(sp < low ? low : sp);
    const uint8_t *end = (const uint8_t *)low + lab_stack_bytes;
    const session_fault_t fault = {told, values, count, from, from < end ? (uint32_t)(end - from) : 0};
    if (overflowed)
        session_crash("overflow", "the stack overflowed", &fault);
    else
        session_crash("crash", cause_text(values[0]), &fault);
    port_reset();
}

__attribute__((naked, aligned(4), used)) static void trap_entry(void)
{
    __asm__ volatile("csrrw sp, mscratch, sp\n"
                     "addi sp, sp, -4 * %0\n"
                     "sw x1, 4(sp)\n"
                     "sw x8, 32(sp)\n"
                     "sw x9, 36(sp)\n"
                     "sw x10, 40(sp)\n"
                     "sw x11, 44(sp)\n"
                     "sw x12, 48(sp)\n"
                     "sw x13, 52(sp)\n"
                     "sw x14, 56(sp)\n"
                     "sw x15, 60(sp)\n"
                     "sw x18, 72(sp)\n"
                     "sw x19, 76(sp)\n"
                     "sw x20, 80(sp)\n"
                     "sw x21, 84(sp)\n"
                     "sw x22, 88(sp)\n"
                     "sw x23, 92(sp)\n"
                     "sw x24, 96(sp)\n"
                     "sw x25, 100(sp)\n"
                     "sw x26, 104(sp)\n"
                     "sw x27, 108(sp)\n"
                     "csrr t0, mscratch\n"
                     "sw t0, 8(sp)\n"
                     "csrr t0, mepc\n"
                     "sw t0, 0(sp)\n"
                     "mv a0, sp\n"
                     "call riscv_trap_report\n" ::"i"(TRAP_FRAME_WORDS));
}

#ifdef LAB_TEST_JOBS
void port_lockup(void)
{
    /* The core fetches its trap handler from where nothing is, and traps on that, for ever. */
    WRITE_CSR(mtvec, 0u);
    __asm__ volatile("unimp");
    for (;;)
        continue;
}
#endif

/* ---- sleep ---- */

void riscv_wake_by(uint32_t irq)
{
    PLIC_PRIORITY(irq) = 1;
    PLIC_ENABLE(irq) = 1u << (irq % 32u);
    PLIC_THRESHOLD = 0;
    WRITE_CSR(mie, MIE_EXTERNAL);
}

void riscv_wait(void)
{
    /* A pending interrupt ends WFI though it is masked, and stays pending, so nothing is lost before the sleep. */
    __asm__ volatile("wfi" ::: "memory");
    PLIC_CLAIM = PLIC_CLAIM;
}
