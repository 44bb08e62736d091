/* The arena, painting of arena and stack, and their guards. */
#ifndef LAB_MEMORY_H
#define LAB_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* Guard bytes behind the arena; lab/build.py knows this number. */
#define MEMORY_ARENA_GUARD_BYTES 16u
#define MEMORY_STACK_GUARD_BYTES 64u

/* The model's arena followed by its guard. Only memory.c knows its size: nothing else is compiled anew for a model. */
extern uint8_t lab_arena[];

/* Paints a stack that nobody runs on yet. The lowest MEMORY_STACK_GUARD_BYTES are its guard. */
void memory_paint_stack(uint32_t *stack, uint32_t bytes);
void memory_paint_arena(void);

/* Most bytes ever used since painting. */
uint32_t memory_stack_high_water(const uint32_t *stack, uint32_t bytes);
uint32_t memory_arena_high_water(void);

bool memory_stack_guard_intact(const uint32_t *stack);
bool memory_arena_guard_intact(void);

#endif
