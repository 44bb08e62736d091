/* Jobs that misbehave, so that the host's detection can be tested on real firmware. Built with LAB_TEST_JOBS only. */
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "port.h"
#include "region.h"
#include "session.h"

/* No board of ours has something at both. */
#define UNMAPPED ((uintptr_t)0x5FFF0000u)
#define ALSO_UNMAPPED ((uintptr_t)0x2FFF0000u)

bool job_crash(const job_parameters_t *job)
{
    (void)job;
    region_begin("inference");
    (void)*(volatile uint32_t *)UNMAPPED;
    (void)*(volatile uint32_t *)ALSO_UNMAPPED;
    /* An emulator may answer where nothing is. */
    __builtin_trap();
}

bool job_hang(const job_parameters_t *job)
{
    (void)job;
    for (volatile uint32_t i = 0;; i++)
        continue;
}

bool job_lockup(const job_parameters_t *job)
{
    (void)job;
    port_lockup();
}

bool job_overrun(const job_parameters_t *job)
{
    (void)job;
    lab_arena[lab_model.arena_bytes] ^= 0xFFu;
    return true;
}

__attribute__((noinline)) static uint32_t recurse(uint32_t depth)
{
    volatile uint32_t frame[64];
    frame[depth % 64u] = depth;
    return depth == 0 ? 1 : recurse(depth - 1) + frame[depth % 64u];
}

bool job_recurse(const job_parameters_t *job)
{
    return recurse(job->count) != 0;
}

static void spin(uint32_t iterations)
{
    for (volatile uint32_t i = 0; i < iterations; i++)
        continue;
}

/* `repeats` regions of `count` loop iterations, for tests of the clock. */
bool job_clock(const job_parameters_t *job)
{
    for (uint32_t i = 0; i < job->repeats; i++) {
        region_begin("inference");
        if (job->count > 0)
            spin(job->count);
        region_times_t times = region_end();
        region_send_marks(times);
        session_event("inference", i, times.begin, times.end);
    }
    return true;
}
