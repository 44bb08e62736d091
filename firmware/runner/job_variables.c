/* parameters, restore, forget: the variables that training changes are sent, loaded, and set as compiled. */
#include "build_id.h"
#include "crc32.h"
#include "job.h"
#include "lab_model.h"
#include "message.h"
#include "session.h"
#include "training.h"

#include <stddef.h>
#include <string.h>

/* The head of a checkpoint, as docs/wire.md describes it; all numbers are little-endian. */
#define MAGIC "labckpt1"
#define MAGIC_BYTES 8u
#define BUILD_ID_AT MAGIC_BYTES
#define TOTAL_AT (BUILD_ID_AT + BUILD_ID_BYTES)
#define CRC_AT (TOTAL_AT + 4u)
#define STEP_AT (CRC_AT + 4u)
#define RANDOM_AT (STEP_AT + 4u)
#define HEAD_BYTES (RANDOM_AT + 4u)

static uint32_t total_bytes(void)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < lab_model.training->variable_count; i++)
        total += lab_model.training->variables[i].bytes;
    return total;
}

static uint32_t variables_crc(void)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < lab_model.training->variable_count; i++)
        crc = crc32_update(crc, lab_model.training->variables[i].data, lab_model.training->variables[i].bytes);
    return crc;
}

static void write_u32(uint8_t *bytes, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t read_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* One variable by its place, without a head: what a client of a federation uploads. */
static bool send_variable(uint64_t place)
{
    const lab_training_t *training = lab_model.training;
    if (place >= training->variable_count) {
        message_begin("there is no variable ");
        message_uint(place);
        message_text("; this model has ");
        message_uint(training->variable_count);
        session_error("input", "variable", message_read());
        return false;
    }
    const lab_variable_t *variable = &training->variables[place];
    session_named_result((uint32_t)place, variable->name, variable->data, variable->bytes);
    return true;
}

bool job_parameters(const job_parameters_t *job)
{
    uint64_t place;
    if (!training_is_there("parameters"))
        return false;
    if (cbor_get_uint(&job->parameters, "variable", &place))
        return send_variable(place);
    const lab_training_t *training = lab_model.training;
    for (uint32_t i = 0; i < training->variable_count; i++)
        session_named_result(i, training->variables[i].name, training->variables[i].data,
                             training->variables[i].bytes);
    uint8_t head[HEAD_BYTES];
    memcpy(head, MAGIC, MAGIC_BYTES);
    memcpy(head + BUILD_ID_AT, lab_build_id, BUILD_ID_BYTES);
    write_u32(head + TOTAL_AT, total_bytes());
    write_u32(head + CRC_AT, variables_crc());
    write_u32(head + STEP_AT, training_state.step);
    write_u32(head + RANDOM_AT, training_state.random);
    session_named_result(training->variable_count, "lab.checkpoint", head, HEAD_BYTES);
    return true;
}

static bool refuse(const char *code)
{
    session_error(code, "checkpoint", message_read());
    return false;
}

static bool is_of_this_build(const uint8_t *head)
{
    if (memcmp(head + BUILD_ID_AT, lab_build_id, BUILD_ID_BYTES) == 0)
        return true;
    char found[BUILD_ID_BYTES + 1u];
    /* From a damaged file anything may come; the frame takes UTF-8 only. */
    for (uint32_t i = 0; i < BUILD_ID_BYTES; i++)
        found[i] = head[BUILD_ID_AT + i] > ' ' && head[BUILD_ID_AT + i] <= '~' ? (char)head[BUILD_ID_AT + i] : '?';
    found[BUILD_ID_BYTES] = 0;
    message_begin("it is of build ");
    message_text(found);
    message_text(", this is build ");
    message_text(lab_build_id);
    return refuse("input");
}

static bool is_valid(const blob_t *blob, const uint8_t *bytes)
{
    if (blob->total < HEAD_BYTES || memcmp(bytes, MAGIC, MAGIC_BYTES) != 0) {
        message_begin("the blob is no checkpoint");
        return refuse("input");
    }
    if (!is_of_this_build(bytes))
        return false;
    if (read_u32(bytes + TOTAL_AT) != total_bytes() || blob->total - HEAD_BYTES != total_bytes()) {
        message_begin("it holds ");
        message_uint(blob->total - HEAD_BYTES);
        message_text(" bytes of variables and announces ");
        message_uint(read_u32(bytes + TOTAL_AT));
        message_text("; this model has ");
        message_uint(total_bytes());
        return refuse("input");
    }
    if (crc32_update(0, bytes + HEAD_BYTES, total_bytes()) != read_u32(bytes + CRC_AT)) {
        message_begin("its variables do not hold what its checksum says");
        return refuse("checksum");
    }
    if (read_u32(bytes + RANDOM_AT) == 0) {
        message_begin("its random state is 0");
        return refuse("input");
    }
    return true;
}

bool job_restore(const job_parameters_t *job)
{
    static const cbor_span_t name = {(const uint8_t *)"checkpoint", sizeof "checkpoint" - 1u};
    (void)job;
    if (!training_is_there("restore"))
        return false;
    const blob_t *blob = blob_find(&name);
    if (blob == NULL) {
        message_begin("there is no such blob, or it is incomplete");
        return refuse("input");
    }
    const uint8_t *bytes = blob_data(blob);
    if (!is_valid(blob, bytes))
        return false;
    training_state.step = read_u32(bytes + STEP_AT);
    training_state.random = read_u32(bytes + RANDOM_AT);
    bytes += HEAD_BYTES;
    for (uint32_t i = 0; i < lab_model.training->variable_count; i++) {
        memcpy(lab_model.training->variables[i].data, bytes, lab_model.training->variables[i].bytes);
        bytes += lab_model.training->variables[i].bytes;
    }
    return true;
}

bool job_forget(const job_parameters_t *job)
{
    (void)job;
    if (!training_is_there("forget"))
        return false;
    training_init();
    return true;
}
