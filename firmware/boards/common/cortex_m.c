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

#define AIRCR_RESET_REQUEST 0x05FA0004u
#define CFSR_STACKING_ERROR (1u << 12 | 1u << 4)
#define EXC_RETURN_PROCESS_STACK (1u << 2)
#define EXC_RETURN_NO_FLOAT_FRAME (1u << 4)

#define HANDLER_STACK_BYTES 2048u
#define VECTORS 112u

extern uint32_t lab_data_start[], lab_data_end[], lab_data_image[], lab_bss_start[], lab_bss_end[];

uint32_t lab_stack[BOARD_STACK_BYTES / sizeof(uint32_t)] __attribute__((aligned(16), section(".stack")));
const uint32_t lab_stack_bytes = sizeof lab_stack;
static uint32_t handler_stack[HANDLER_STACK_BYTES / sizeof(uint32_t)] __attribute__((aligned(16), section(".noinit")));

/* ---- start-up ---- */

__attribute__((naked, noreturn)) static void run_on_process_stack(uint32_t *top)
{
    (void)top;
    __asm__ volatile("msr psp, r0\n"
                     "movs r0, #2\n"
                     "msr control, r0\n"
                     "isb\n"
                     "bl board_init\n"
                     "bl lab_main\n");
}

__attribute__((noreturn, used)) void reset_handler(void)
{
    REGISTER(CPACR) |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
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

__attribute__((noreturn, used)) void fault_report(const uint32_t *frame, uint32_t exc_return)
{
    static const char *const names[] = {
        "r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr", "cfsr", "hfsr", "mmfar", "bfar", "sp",
    };
    uint32_t values[sizeof names / sizeof names[0]] = {0};
    bool on_process_stack = exc_return & EXC_RETURN_PROCESS_STACK;
    bool stacked = !on_process_stack || (holds_frame(frame) && !(REGISTER(CFSR) & CFSR_STACKING_ERROR));
    for (uint32_t i = 0; stacked && i < 8; i++)
        values[i] = frame[i];
    values[8] = REGISTER(CFSR);
    values[9] = REGISTER(HFSR);
    values[10] = REGISTER(MMFAR);
    values[11] = REGISTER(BFAR);
    values[12] = (uint32_t)(uintptr_t)frame + (exc_return & EXC_RETURN_NO_FLOAT_FRAME ? 32u : 104u);

    if (on_process_stack && (!stacked || !memory_stack_guard_intact(lab_stack)))
        session_crash("overflow", "the stack overflowed", names, values, sizeof names / sizeof names[0]);
    else
        session_crash("crash", "the processor took a fault", names, values, sizeof names / sizeof names[0]);
    port_reset();
}

__attribute__((naked, used)) static void fault_handler(void)
{
    __asm__ volatile("mrs r0, msp\n"
                     "tst lr, #4\n"
                     "it ne\n"
                     "mrsne r0, psp\n"
                     "mov r1, lr\n"
                     "b fault_report\n");
}

#ifdef LAB_TEST_JOBS
void port_lockup(void)
{
    /* With FAULTMASK set this runs at the priority of a hard fault, so the fault cannot be taken. */
    __asm__ volatile("cpsid f\n udf #0" ::: "memory");
    for (;;)
        continue;
}
#endif

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) static const vector_t vectors[VECTORS] = {
    (vector_t)(uintptr_t)(handler_stack + sizeof handler_stack / sizeof handler_stack[0]),
    reset_handler,
    [2 ... VECTORS - 1] = fault_handler,
};
