/* Every kind of fault, on purpose: a test sets `kind` and `on_process_stack`, and looks at what a post-mortem says. */
#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define CPACR 0xE000ED88u
#define CCR 0xE000ED14u
#define SHCSR 0xE000ED24u
#define MPU_CTRL 0xE000ED94u
#define MPU_RNR 0xE000ED98u
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RASR 0xE000EDA0u
#define CCR_TRAPS (1u << 4 | 1u << 3)
#define SHCSR_FAULT_HANDLERS (7u << 16)
/* Nothing is mapped there: in the code region, and in the region of peripherals. */
#define NO_CODE 0x1F000000u
#define NO_DEVICE 0x5FFF0000u
#define NEVER_EXECUTED 0x40000000u

volatile uint32_t kind;
volatile uint32_t on_process_stack;
volatile uint32_t own_handlers;
volatile uint32_t sink;
volatile uint32_t odd;
volatile uint32_t process_stack_pointer;
volatile float scale;

uint32_t lab_stack[512] __attribute__((section(".stack")));
static uint32_t handler_stack[512] __attribute__((used));

typedef void (*function_t)(void);

/* ---- where tests stop ---- */

__attribute__((noinline, used)) void stopped(void)
{
    do
        sink++;
    while (sink != 1u << 31);
}

__attribute__((noinline)) static void handle(uint32_t depth)
{
    if (depth > 0)
        handle(depth - 1);
    else
        stopped();
    sink++;
}

__attribute__((used)) static void fault_handler(void)
{
    uint32_t pointer;
    __asm__ volatile("mrs %0, psp" : "=r"(pointer));
    process_stack_pointer = pointer;
    handle(2);
    sink++;
}

/* ---- faults ---- */

void begin(void);

__attribute__((noinline)) static uint32_t divide(uint32_t by)
{
#if __ARM_ARCH_ISA_THUMB >= 2
    return 100u / by;
#else
    return by;
#endif
}

__attribute__((noinline)) static void forbid(uint32_t address, uint32_t attributes)
{
    REGISTER(MPU_RNR) = 0;
    REGISTER(MPU_RBAR) = address;
    REGISTER(MPU_RASR) = attributes;
    REGISTER(MPU_CTRL) = 5;
    __asm__ volatile("dsb\n isb" ::: "memory");
}

__attribute__((noinline, used)) void provoke(uint32_t which)
{
    sink++;
    switch (which) {
    case 1:
        __asm__ volatile("udf #0");
        break;
    case 2:
        sink = REGISTER(NO_DEVICE);
        break;
    case 3:
        sink = divide(sink - sink);
        break;
    case 4:
        sink = *(volatile uint32_t *)((uintptr_t)&sink + odd);
        break;
    case 5:
        ((function_t)((uintptr_t)&begin - odd))();
        break;
    case 6:
        REGISTER(CPACR) = 0;
        __asm__ volatile("dsb\n isb" ::: "memory");
#if defined(__ARM_FP)
        __asm__ volatile("vmov s0, %0" ::"r"(0));
#endif
        break;
    case 7:
        ((function_t)(NEVER_EXECUTED | 1u))();
        break;
    case 8:
        /* 32 bytes that nobody may touch. */
        forbid(0x20100000u, 4u << 1 | 1u);
        REGISTER(0x20100010u) = 1;
        break;
    case 9:
        ((function_t)(NO_CODE | 1u))();
        break;
    case 10:
        __asm__ volatile("bkpt #0");
        break;
    case 11:
        __asm__ volatile("svc #0");
        break;
    default:
        stopped();
    }
    sink++;
}

/* A fault inside a handler that interrupted a thread. */
__attribute__((used)) static void svc_handler(void)
{
    sink++;
    provoke(1);
    sink++;
}

/* ---- calls that lead there ---- */

__attribute__((always_inline)) static inline void twice(uint32_t which)
{
    sink += 2;
    provoke(which);
    sink += 2;
}

__attribute__((noinline)) static float with_floats(uint32_t which)
{
    float before = scale;
    twice(which);
    return before * scale;
}

__attribute__((noinline)) static uint32_t deep(uint32_t depth, uint32_t which)
{
    volatile uint32_t local[5];
    local[depth % 5u] = depth;
    if (depth == 0)
        sink += (uint32_t)with_floats(which);
    else
        deep(depth - 1, which);
    return local[depth % 5u];
}

__attribute__((noinline, used)) void begin(void)
{
    sink = 0;
    deep(3, kind);
    stopped();
}

__attribute__((naked, noreturn)) static void begin_on_process_stack(uint32_t *top __attribute__((unused)))
{
    __asm__ volatile(".syntax unified\n"
                     "msr psp, r0\n"
                     "movs r0, #2\n"
                     "msr control, r0\n"
                     "isb\n"
                     "bl begin\n");
}

__attribute__((noinline, used)) void settled(void)
{
    sink++;
}

__attribute__((noreturn, used)) void reset_handler(void)
{
    kind = on_process_stack = own_handlers = 0;
    odd = 1;
    scale = 1.5f;
    settled();
#if __ARM_ARCH_ISA_THUMB >= 2
#if defined(__ARM_FP)
    REGISTER(CPACR) |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    REGISTER(CCR) |= CCR_TRAPS;
    if (own_handlers)
        REGISTER(SHCSR) |= SHCSR_FAULT_HANDLERS;
#endif
    if (on_process_stack)
        begin_on_process_stack(lab_stack + 512);
    begin();
    for (;;)
        continue;
}

__attribute__((section(".vectors"), used)) static const function_t vectors[16] = {
    (function_t)(uintptr_t)(handler_stack + 512),
    reset_handler,
    [2 ... 10] = fault_handler,
    [11] = svc_handler,
    [12 ... 15] = fault_handler,
};
