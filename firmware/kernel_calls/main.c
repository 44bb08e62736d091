/* Calls kernels for the host and marks each call: for exact counts of single kernels and for tests on emulated cores.
 *
 * The host places calls in the shared memory (board.h: BOARD_BLOB_ADDRESS), then their number, then a new ticket; this
 * image runs them and answers with the ticket. A fault answers with FAULT. lab/emulators/kernel_calls.py is the host. */
#include <stdint.h>

#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define CPACR 0xE000ED88u
#define FAULT 0xFFFFFFFFu
#define ARGUMENTS 7

typedef void (*kernel_t)(uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t);

typedef struct {
    uint32_t kernel; /* index into `kernels` */
    uint32_t arguments[ARGUMENTS];
} call_t;

typedef struct {
    uint32_t ticket, answer, count, reserved;
    call_t calls[];
} mailbox_t;

#define MAILBOX ((volatile mailbox_t *)(uintptr_t)BOARD_BLOB_ADDRESS)

extern const kernel_t kernels[]; /* generated */
extern uint32_t lab_data_start[], lab_data_end[], lab_data_image[], lab_bss_start[], lab_bss_end[];
static uint32_t stack[BOARD_STACK_BYTES / 4] __attribute__((aligned(16), section(".stack")));

static void run_calls(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const volatile call_t *call = &MAILBOX->calls[i];
        const kernel_t kernel = kernels[call->kernel];
        const volatile uint32_t *a = call->arguments;
        REGISTER(BOARD_MARKER) = 1;
        kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        REGISTER(BOARD_MARKER) = 0;
    }
}

__attribute__((noreturn, used)) void reset_handler(void)
{
    uint32_t ticket = 0;
    REGISTER(CPACR) |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
    for (uint32_t *from = lab_data_image, *to = lab_data_start; to < lab_data_end;)
        *to++ = *from++;
    for (uint32_t *to = lab_bss_start; to < lab_bss_end;)
        *to++ = 0;
    for (;;) {
        while (MAILBOX->ticket == ticket)
            continue;
        ticket = MAILBOX->ticket;
        run_calls(MAILBOX->count);
        MAILBOX->answer = ticket;
    }
}

__attribute__((noreturn)) static void fault(void)
{
    MAILBOX->answer = FAULT;
    for (;;)
        continue;
}

typedef void (*vector_t)(void);

__attribute__((section(".vectors"), used)) static const vector_t vectors[16] = {
    (vector_t)(uintptr_t)(stack + sizeof stack / sizeof stack[0]), (vector_t)reset_handler, [2 ... 15] = (vector_t)fault,
};
