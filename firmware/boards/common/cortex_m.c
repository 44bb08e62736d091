#include "cortex_m.h"

#include "board.h"
#include "memory.h"
#include "port.h"
#include "session.h"

#include <stdbool.h>
#include <stddef.h>

#define CPACR 0xE000ED88u
#define AIRCR 0xE000ED0Cu
#define CFSR 0xE000ED28u
#define HFSR 0xE000ED2Cu
#define MMFAR 0xE000ED34u
#define BFAR 0xE000ED38u
#define SFSR 0xE000EDE4u
#define SFAR 0xE000EDE8u

#define AIRCR_RESET_REQUEST 0x05FA0004u
#define CFSR_STACKING_ERROR (1u << 12 | 1u << 4)
#define CFSR_MMFAR_VALID (1u << 7)
#define CFSR_BFAR_VALID (1u << 15)
#define SFSR_SFAR_VALID (1u << 6)
#define XPSR_FRAME_IS_PADDED (1u << 9)
#define EXC_RETURN_PROCESS_STACK (1u << 2)
#define EXC_RETURN_NO_FLOAT_FRAME (1u << 4)

/* What a fault's report takes with room to spare; a board with little RAM says less in its board.h. */
#ifndef BOARD_HANDLER_STACK_BYTES
#define BOARD_HANDLER_STACK_BYTES 2048u
#endif
#define VECTORS 112u
#define EXCEPTION_NMI 2u
#define FIRST_INTERRUPT 16u

extern uint32_t lab_data_start[], lab_data_end[], lab_data_image[], lab_bss_start[], lab_bss_end[];

uint32_t lab_stack[BOARD_STACK_BYTES / sizeof(uint32_t)] __attribute__((aligned(16), section(".stack")));
const uint32_t lab_stack_bytes = sizeof lab_stack;
static uint32_t handler_stack[BOARD_HANDLER_STACK_BYTES / sizeof(uint32_t)] __attribute__((aligned(16), section(".noinit")));

/* ---- start-up ---- */

__attribute__((naked, noreturn)) static void run_on_process_stack(uint32_t *top __attribute__((unused)))
{
    __asm__ volatile(".syntax unified\n"
                     "msr psp, r0\n"
                     "movs r0, #2\n"
                     "msr control, r0\n"
                     "isb\n"
                     "bl board_init\n"
                     "bl lab_main\n");
}

__attribute__((noreturn, used)) void reset_handler(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    REGISTER(CPACR) |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    for (uint32_t *from = lab_data_image, *to = lab_data_start; to < lab_data_end;)
        *to++ = *from++;
    for (uint32_t *to = lab_bss_start; to < lab_bss_end;)
        *to++ = 0;
    memory_paint_stack(lab_stack, lab_stack_bytes);
    run_on_process_stack(lab_stack + sizeof lab_stack / sizeof lab_stack[0]);
}

void port_reset(void)
{
    __asm__ volatile("dsb" ::: "memory");
    REGISTER(AIRCR) = AIRCR_RESET_REQUEST;
    for (;;)
        continue;
}

/* ---- faults ---- */

static bool holds_frame(const uint32_t *frame)
{
    uintptr_t address = (uintptr_t)frame;
    uintptr_t low = (uintptr_t)lab_stack;
    return address >= low && address + 32u <= low + lab_stack_bytes;
}

/* What the host needs to say where and why; see docs/crashes.md. */
static struct {
    const char *names[SESSION_FAULT_REGISTERS];
    uint32_t values[SESSION_FAULT_REGISTERS];
    uint32_t count;
} told;

static void tell(const char *name, uint32_t value)
{
    if (told.count < SESSION_FAULT_REGISTERS) {
        told.names[told.count] = name;
        told.values[told.count++] = value;
    }
}

static uint32_t tell_fault_status(void)
{
#if __ARM_ARCH_ISA_THUMB >= 2
    uint32_t status = REGISTER(CFSR);
    tell("cfsr", status);
    tell("hfsr", REGISTER(HFSR));
    if (status & CFSR_MMFAR_VALID)
        tell("mmfar", REGISTER(MMFAR));
    if (status & CFSR_BFAR_VALID)
        tell("bfar", REGISTER(BFAR));
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    tell("sfsr", REGISTER(SFSR));
    if (REGISTER(SFSR) & SFSR_SFAR_VALID)
        tell("sfar", REGISTER(SFAR));
#endif
    return status;
#else
    return 0;
#endif
}

static const char *what_happened(void)
{
    uint32_t exception;
    __asm__ volatile("mrs %0, ipsr" : "=r"(exception));
    return exception == EXCEPTION_NMI ? "a non-maskable interrupt (NMI)" : "the processor took a fault";
}

/* `preserved` holds r8 to r11, then r4 to r7, of the code that took the fault. */
__attribute__((noreturn, used)) void fault_report(const uint32_t *frame, uint32_t exc_return,
                                                  const uint32_t *preserved)
{
    static const char *const stacked_names[] = {"r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr"};
    static const char *const preserved_names[] = {"r8", "r9", "r10", "r11", "r4", "r5", "r6", "r7"};
    bool on_process_stack = exc_return & EXC_RETURN_PROCESS_STACK;
    uint32_t status = tell_fault_status();
    bool stacked = !on_process_stack || (holds_frame(frame) && !(status & CFSR_STACKING_ERROR));
    uint32_t sp = (uint32_t)(uintptr_t)frame + (exc_return & EXC_RETURN_NO_FLOAT_FRAME ? 32u : 104u);
    if (stacked && (frame[7] & XPSR_FRAME_IS_PADDED))
        sp += 4u;
    for (uint32_t i = 0; stacked && i < 8; i++)
        tell(stacked_names[i], frame[i]);
    for (uint32_t i = 0; i < 8; i++)
        tell(preserved_names[i], preserved[i]);
    tell("sp", sp);
    tell("exc_return", exc_return);

    const uint32_t *low = on_process_stack ? lab_stack : handler_stack;
    const uint8_t *end = (const uint8_t *)low + (on_process_stack ? lab_stack_bytes : sizeof handler_stack);
    /* An overflow leaves the stack pointer below the stack. */
    const uint8_t *from = sp < (uintptr_t)low ? (const uint8_t *)low : (const uint8_t *)(uintptr_t)sp;
    const session_fault_t fault = {
        told.names, told.values, told.count, from, from < end ? (uint32_t)(end - from) : 0,
    };
    if (on_process_stack && (!stacked || !memory_stack_guard_intact(lab_stack)))
        session_crash("overflow", "the stack overflowed", &fault);
    else
        session_crash("crash", what_happened(), &fault);
    port_reset();
}

__attribute__((naked, used)) static void fault_handler(void)
{
    /* Only what Armv6-M has, too. The directives tell a debugger how to get from here to what was interrupted. */
    __asm__ volatile(".syntax unified\n"
                     "mov r1, lr\n"
                     "mrs r0, msp\n"
                     "movs r2, #4\n"
                     "tst r2, r1\n"
                     "beq 1f\n"
                     "mrs r0, psp\n"
                     "1: push {r4-r7}\n"
                     ".cfi_adjust_cfa_offset 16\n"
                     ".cfi_rel_offset r4, 0\n"
                     ".cfi_rel_offset r5, 4\n"
                     ".cfi_rel_offset r6, 8\n"
                     ".cfi_rel_offset r7, 12\n"
                     "mov r4, r8\n"
                     "mov r5, r9\n"
                     "mov r6, r10\n"
                     "mov r7, r11\n"
                     "push {r4-r7}\n"
                     ".cfi_adjust_cfa_offset 16\n"
                     ".cfi_rel_offset r8, 0\n"
                     ".cfi_rel_offset r9, 4\n"
                     ".cfi_rel_offset r10, 8\n"
                     ".cfi_rel_offset r11, 12\n"
                     "mov r2, sp\n"
                     "push {r3, lr}\n"
                     ".cfi_adjust_cfa_offset 8\n"
                     ".cfi_rel_offset lr, 4\n"
                     "bl fault_report\n");
}

#ifdef LAB_TEST_JOBS
void port_lockup(void)
{
#if __ARM_ARCH_ISA_THUMB >= 2
    /* With FAULTMASK set this runs at the priority of a hard fault, so the fault cannot be taken. */
    __asm__ volatile("cpsid f\n udf #0" ::: "memory");
#else
    /* Armv6-M has no FAULTMASK: the handler of this fault takes one itself, since its stack lies nowhere. */
    __asm__ volatile("msr msp, %0\n udf #0" ::"r"(0) : "memory");
#endif
    for (;;)
        continue;
}
#endif

/* Boards without interrupts take one as a fault. */
__attribute__((weak, alias("fault_handler"))) void board_interrupt(void);

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) static const vector_t vectors[VECTORS] = {
    (vector_t)(uintptr_t)(handler_stack + sizeof handler_stack / sizeof handler_stack[0]),
    reset_handler,
    [2 ... FIRST_INTERRUPT - 1] = fault_handler,
    [FIRST_INTERRUPT ... VECTORS - 1] = board_interrupt,
};
