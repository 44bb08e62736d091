#include "memory.h"

#include "model.h"

#define STACK_PAINT 0xC5A7E519u

/* The start-up code must not spend time on clearing what every job paints first. */
uint8_t lab_arena[LAB_MODEL_ARENA_BYTES + MEMORY_ARENA_GUARD_BYTES] __attribute__((aligned(16), section(".noinit")));

/* Changes from byte to byte, so that no constant a model may write hides a long stretch of touched memory. */
static uint8_t arena_paint(uint32_t offset)
{
    return (uint8_t)(0xA5u ^ (offset * 0x9Du));
}

void memory_paint_stack(uint32_t *stack, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes / sizeof *stack; i++)
        stack[i] = STACK_PAINT;
}

void memory_paint_arena(void)
{
    for (uint32_t i = 0; i < sizeof lab_arena; i++)
        lab_arena[i] = arena_paint(i);
}

/* Reads below the stack pointer on purpose. */
__attribute__((no_sanitize("address"))) uint32_t memory_stack_high_water(const uint32_t *stack, uint32_t bytes)
{
    uint32_t untouched = 0;
    while (untouched < bytes / sizeof *stack && stack[untouched] == STACK_PAINT)
        untouched++;
    return bytes - untouched * (uint32_t)sizeof *stack;
}

uint32_t memory_arena_high_water(void)
{
    uint32_t used = LAB_MODEL_ARENA_BYTES;
    while (used > 0 && lab_arena[used - 1] == arena_paint(used - 1))
        used--;
    return used;
}

__attribute__((no_sanitize("address"))) bool memory_stack_guard_intact(const uint32_t *stack)
{
    for (uint32_t i = 0; i < MEMORY_STACK_GUARD_BYTES / sizeof *stack; i++)
        if (stack[i] != STACK_PAINT)
            return false;
    return true;
}

bool memory_arena_guard_intact(void)
{
    for (uint32_t i = LAB_MODEL_ARENA_BYTES; i < sizeof lab_arena; i++)
        if (lab_arena[i] != arena_paint(i))
            return false;
    return true;
}
