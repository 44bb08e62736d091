/* infer: runs the model over the blob's samples, `count` of them back to back. */
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "region.h"
#include "session.h"

#define INFERENCE "inference"

static bool input_is_valid(const job_parameters_t *job)
{
    return job->blob != NULL && job->count > 0 && job->repeats > 0 &&
           job->blob->total / job->count >= lab_model.input_bytes;
}

static void send_idle_mark(const job_parameters_t *job)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
}

static void time_sample(const job_parameters_t *job, uint32_t sample, const uint8_t *input, uint8_t *output)
{
    for (uint32_t i = 0; i < job->repeats; i++) {
        region_begin(INFERENCE);
        lab_model.infer(input, output, lab_arena);
        region_times_t times = region_end();
        if (!(job->flags & JOB_FLAG_SILENT_MARKER))
            region_send_marks(times);
        if (i + 1 < job->repeats)
            session_event(INFERENCE, sample, times.begin, times.end);
        else
            session_event_with_result(INFERENCE, sample, times.begin, times.end, output,
                                      lab_model.output_bytes);
    }
}

/* Nothing but the next pass lies between two passes. Every window begins with the first sample: all do the same work. */
static void time_window(const job_parameters_t *job, uint32_t index, uint32_t passes, uint8_t *output)
{
    const uint8_t *samples = blob_data(job->blob);
    const uint8_t *input = samples;
    uint32_t left = job->count;
    region_begin(INFERENCE);
    for (uint32_t i = 0; i < passes; i++) {
        lab_model.infer(input, output, lab_arena);
        input += lab_model.input_bytes;
        if (--left == 0) {
            left = job->count;
            input = samples;
        }
    }
    job_report_window(job, INFERENCE, index, region_end(), passes);
}

static void time_all(const job_parameters_t *job, uint32_t window, uint8_t *output)
{
    const uint8_t *samples = blob_data(job->blob);
    for (uint32_t i = 0; window > 0 && i < job->repeats; i++)
        time_window(job, i, window, output);
    for (uint32_t i = 0; window == 0 && i < job->count; i++)
        time_sample(job, i, samples + (size_t)i * lab_model.input_bytes, output);
}

static void profile_sample(const uint8_t *input, uint8_t *output, region_times_t *layers)
{
    lab_model.infer_profiled(input, output, lab_arena, region_layer_hook, layers);
    for (uint32_t i = 0; i < lab_model.layer_count; i++)
        session_event("layer", i, layers[i].begin, layers[i].end);
}

bool job_infer(const job_parameters_t *job)
{
    if (!input_is_valid(job)) {
        session_error("input", "infer", "the blob does not hold this many samples");
        return false;
    }
    uint32_t window;
    if (!job_window(job, &window))
        return false;
    const uint8_t *samples = blob_data(job->blob);
    region_times_t *layers = (region_times_t *)(void *)job_scratch();
    uint8_t *output = job_output();

    for (uint32_t i = 0; i < job->warmup; i++)
        lab_model.infer(samples, output, lab_arena);
    send_idle_mark(job);
    job_quiet(job, 0);
    time_all(job, window, output);
    job_quiet(job, 1);
    send_idle_mark(job);
    if (job->flags & JOB_FLAG_PROFILE)
        for (uint32_t i = 0; i < job->count; i++)
            profile_sample(samples + (size_t)i * lab_model.input_bytes, output, layers);
    return true;
}
