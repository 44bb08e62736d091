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

uint32_t job_scratch_bytes(void)
{
    uint32_t layers = lab_model.layer_count * (uint32_t)sizeof(region_times_t);
    return layers + ((lab_model.output_bytes + 15u) & ~15u);
}

uint8_t *job_scratch(void)
{
    return lab_port.blob_store + lab_port.blob_bytes - job_scratch_bytes();
}
