/* Regions: what is measured. Both edges read the board's clock and store to the marker register. */
#ifndef LAB_REGION_H
#define LAB_REGION_H

#include <stdbool.h>
#include <stdint.h>

/* Marker bits. */
#define REGION_MARK_RUNNING 1u
#define REGION_MARK_LAYER 2u

typedef struct {
    uint64_t begin;
    uint64_t end;
} region_times_t;

/* Measures what an empty region and an empty layer cost; later ones have that subtracted. Call once at boot. */
void region_init(void);

/* A region around `work(context)`. The edges are: read clock, store 1 … store 0, read clock. Nothing is sent inside. */
void region_begin(const char *name);
region_times_t region_end(void);

/* Hook for the model's profiled schedule; `context` is an array of region_times_t, one per layer. */
void region_layer_hook(void *context, uint32_t layer, uint32_t edge);

/* The region that runs, or "". */
const char *region_running(void);

typedef struct {
    region_times_t times;
    bool asleep;
} region_quiet_t;

/* Waits `quiet_us` of the board's clock, asleep where that is wanted and the board can; says when, and whether it slept. */
region_quiet_t region_quiet(uint32_t quiet_us, bool sleep);

/* Sends marker frames for both edges of a region, or for a moment at which nothing runs. Never inside a region. */
void region_send_marks(region_times_t times);
void region_send_idle_mark(void);

#endif
