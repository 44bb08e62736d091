#include "job.h"

#include "lab_model.h"
#include "message.h"
#include "port.h"
#include "region.h"
#include "session.h"

#include <stddef.h>

static const struct {
    const char *name;
    job_function_t function;
} jobs[] = {
    {"infer", job_infer},
    {"train", job_train},
    {"adapt", job_adapt},
    {"switch", job_switch},
    {"filter", job_filter},
    {"parameters", job_parameters},
    {"restore", job_restore},
    {"forget", job_forget},
#ifdef LAB_COUNT_JOB
    {"count", job_count},
#endif
#ifdef LAB_PEAKS
    {"peaks", job_peaks},
#endif
#ifdef LAB_TEST_JOBS
    {"crash", job_crash},
    {"hang", job_hang},
    {"lockup", job_lockup},
    {"overrun", job_overrun},
    {"recurse", job_recurse},
    {"clock", job_clock},
#endif
};

job_function_t job_find(const cbor_span_t *name)
{
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++)
        if (cbor_text_is(name, jobs[i].name))
            return jobs[i].function;
    return NULL;
}

void job_quiet(const job_parameters_t *job, uint32_t index)
{
    region_quiet_t quiet = region_quiet(job->quiet_us, job->flags & JOB_FLAG_SLEEP);
    if (quiet.asleep)
        session_event("idle", index, quiet.times.begin, quiet.times.end);
}

bool job_window(const job_parameters_t *job, uint32_t *passes)
{
    uint64_t wanted = 0;
    cbor_get_uint(&job->parameters, "window", &wanted);
    *passes = (uint32_t)wanted;
    if (wanted <= UINT32_MAX)
        return true;
    session_error("input", "window", "a window has at most 4294967295 passes");
    return false;
}

void job_report_window(const job_parameters_t *job, const char *region, uint32_t index, region_times_t times,
                       uint32_t passes)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_window(region, index, times.begin, times.end, passes);
}

static uint32_t times_bytes(void)
{
    uint32_t steps = lab_model.training != NULL ? lab_model.training->step_count : 0;
    uint32_t most = steps > lab_model.layer_count ? steps : lab_model.layer_count;
    return most * (uint32_t)sizeof(region_times_t);
}

uint32_t job_scratch_bytes(void)
{
    return times_bytes() + ((lab_model.output_bytes + 15u) & ~15u);
}

uint8_t *job_scratch(void)
{
    return lab_port.blob_store + lab_port.blob_bytes - job_scratch_bytes();
}

uint8_t *job_output(void)
{
    return job_scratch() + times_bytes();
}

bool job_read_count(const job_parameters_t *job, const char *name, uint32_t least, uint32_t most, uint32_t *value)
{
    uint64_t given = 0;
    if (cbor_get_uint(&job->parameters, name, &given) && given >= least && given <= most) {
        *value = (uint32_t)given;
        return true;
    }
    message_begin("it must be given, from ");
    message_uint(least);
    message_text(" to ");
    message_uint(most);
    return job_refuse(name);
}
