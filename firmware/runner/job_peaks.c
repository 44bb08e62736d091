/*
 * peaks: what the device does at most, `repeats` windows of each of two loops of the runtime: a copy within the arena,
 * and multiplications with additions. Built with LAB_PEAKS only.
 *
 * A window has as many passes as take `least` microseconds of the device's clock, found by doubling. Metrics
 * REGION/bytes and REGION/flop say what a pass moves and computes.
 */
#include "job.h"
#include "lab_model.h"
#include "lab_peaks.h"
#include "memory.h"
#include "message.h"
#include "port.h"
#include "region.h"
#include "session.h"

#include <stddef.h>

#define COPY "peak.copy"
#define MULTIPLY_ADD "peak.multiply_add"

#define ROUNDS 256u
#define MOST_PASSES (1u << 30)
#define COPY_BYTES ((uint32_t)sizeof(uint32_t) * LAB_PEAK_COPY_WORDS)

/* Half of the arena, so that the other half takes the copy: what a step of training works on, and the caches with it. */
static uint32_t copied_bytes(void)
{
    return lab_model.arena_bytes / 2u / COPY_BYTES * COPY_BYTES;
}

static void copy_once(void)
{
    uint32_t *from = (uint32_t *)(void *)lab_arena;
    uint32_t words = copied_bytes() / (uint32_t)sizeof *from;
    lab_peak_copy(from + words, from, words);
}

/* Nobody reads it: it keeps the sum alive. */
static volatile float sink;

/* A factor so small that values stay where they are: numbers out of the ordinary can take longer. */
static void multiply_add_once(void)
{
    sink = lab_peak_multiply_add(ROUNDS, 1.0f, 0x1p-12f);
}

static region_times_t window(const char *region, void (*pass)(void), uint32_t passes)
{
    region_begin(region);
    for (uint32_t i = 0; i < passes; i++)
        pass();
    return region_end();
}

static void measure(const job_parameters_t *job, const char *region, void (*pass)(void), uint64_t least)
{
    uint32_t passes = 1;
    region_times_t times = window(region, pass, passes);
    while (times.end - times.begin < least && passes < MOST_PASSES) {
        passes *= 2u;
        times = window(region, pass, passes);
    }
    for (uint32_t i = 0; i < job->repeats; i++)
        job_report_window(job, region, i, window(region, pass, passes), passes);
}

bool job_peaks(const job_parameters_t *job)
{
    uint64_t least_us = 0;
    cbor_get_uint(&job->parameters, "least", &least_us);
    if (job->repeats == 0 || least_us > 1000000u) {
        session_error("input", "peaks", "at least one window, of at most 1000000 microseconds");
        return false;
    }
    if (copied_bytes() == 0) {
        message_begin("an arena of ");
        message_uint(lab_model.arena_bytes);
        message_text(" bytes has no room for a copy; it takes ");
        message_uint(2u * COPY_BYTES);
        session_error("input", "peaks", message_read());
        return false;
    }
    uint64_t least = least_us * port_clock_hz() / 1000000u;
    measure(job, COPY, copy_once, least);
    measure(job, MULTIPLY_ADD, multiply_add_once, least);
    session_metric(COPY "/bytes", 2.0f * (float)copied_bytes());
    session_metric(MULTIPLY_ADD "/flop", (float)ROUNDS * (float)lab_peak_flop());
    return true;
}
