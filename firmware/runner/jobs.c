#include "job.h"

#include "lab_model.h"
#include "port.h"
#include "region.h"

#include <stddef.h>

static const struct {
    const char *name;
    job_function_t function;
} jobs[] = {
    {"infer", job_infer},
    {"train", job_train},
    {"parameters", job_parameters},
    {"restore", job_restore},
    {"forget", job_forget},
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
