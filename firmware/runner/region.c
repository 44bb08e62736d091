#include "region.h"

#include "port.h"
#include "wire.h"

#define CALIBRATION_TRIES 16u

static const char *running = "";
static uint64_t begin_cycles;
static uint64_t region_overhead;
static uint64_t layer_overhead;

/* Until calibration is over the stores go here, so that the first store to the marker register is a true edge. */
static volatile uint32_t unmarked;
static volatile uint32_t *marker = &unmarked;

__attribute__((noinline)) void region_begin(const char *name)
{
    running = name;
    begin_cycles = port_cycles();
    *marker = PORT_MARKER_WORD(REGION_MARK_RUNNING);
}

/* A real clock may read a very short region as less than the overhead: an end never lies before its begin. */
static uint64_t corrected(uint64_t begin, uint64_t end, uint64_t overhead)
{
    return end - begin < overhead ? begin : end - overhead;
}

__attribute__((noinline)) region_times_t region_end(void)
{
    *marker = PORT_MARKER_WORD(0u);
    region_times_t times = {begin_cycles, corrected(begin_cycles, port_cycles(), region_overhead)};
    running = "";
    return times;
}

__attribute__((noinline)) void region_layer_hook(void *context, uint32_t layer, uint32_t edge)
{
    region_times_t *times = (region_times_t *)context + layer;
    if (edge == 1) {
        running = "layer";
        times->begin = port_cycles();
        *marker = PORT_MARKER_WORD(REGION_MARK_LAYER);
    } else {
        *marker = PORT_MARKER_WORD(0u);
        times->end = corrected(times->begin, port_cycles(), layer_overhead);
        running = "";
    }
}

void region_init(void)
{
    uint64_t least_region = UINT64_MAX;
    uint64_t least_layer = UINT64_MAX;
    /* Volatile: the generated code, too, calls its hook through a pointer. */
    void (*volatile hook)(void *, uint32_t, uint32_t) = region_layer_hook;
    region_overhead = 0;
    layer_overhead = 0;
    /* A virtual clock reads the same every time; a real one is disturbed now and then, the least is undisturbed. */
    for (uint32_t i = 0; i < CALIBRATION_TRIES; i++) {
        region_times_t times;
        region_begin("");
        times = region_end();
        if (times.end - times.begin < least_region)
            least_region = times.end - times.begin;
        hook(&times, 0, 1);
        hook(&times, 0, 0);
        if (times.end - times.begin < least_layer)
            least_layer = times.end - times.begin;
    }
    region_overhead = least_region;
    layer_overhead = least_layer;
    marker = lab_port.marker;
}

const char *region_running(void)
{
    return running;
}

region_quiet_t region_quiet(uint32_t quiet_us, bool sleep)
{
    uint64_t cycles = (uint64_t)quiet_us * port_clock_hz() / 1000000u;
    region_quiet_t quiet = {{port_cycles(), 0}, false};
    uint64_t passed = 0;
    /* A sleep may end early; the last bit is waited for awake. */
    while (passed < cycles) {
        if (sleep && port_doze(cycles - passed))
            quiet.asleep = true;
        passed = port_cycles() - quiet.times.begin;
    }
    quiet.times.end = quiet.times.begin + passed;
    return quiet;
}

static void send_edge(uint64_t cycles, uint32_t bits)
{
    static wire_frame_t frame;
    static uint8_t encoded[WIRE_ENCODED_BYTES];
    wire_begin(&frame);
    wire_add_uint(&frame, "c", cycles);
    wire_add_uint(&frame, "m", bits);
    port_write_marker(encoded, wire_finish(&frame, encoded));
}

void region_send_marks(region_times_t times)
{
    send_edge(times.begin, REGION_MARK_RUNNING);
    send_edge(times.end, 0);
}

void region_send_idle_mark(void)
{
    send_edge(port_cycles(), 0);
}
