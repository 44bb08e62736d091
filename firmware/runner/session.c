#include "session.h"

#include "blob.h"
#include "build_id.h"
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "port.h"
#include "region.h"
#include "wire.h"

#include <stdbool.h>

#ifndef CREDITS
#define CREDITS 1u
#endif
/* Leaves room for the other keys of a result frame. */
#define RESULT_CHUNK (WIRE_MTU - 64u)
#define EVENT_RESULT_BYTES 256u
#define STACK_BYTES_SENT 4096u
#define GATHERED_PASSES 32u
#define GATHERED_RESULT_BYTES 512u
#define PASS_BYTES 8u
#define MOST_BAUD_RATES 8u

static wire_receiver_t receiver;
static wire_frame_t frame;
static uint8_t encoded[WIRE_ENCODED_BYTES];
static uint32_t last_accepted;
static uint32_t next_sent;
static uint32_t events;
static uint32_t results;
static uint32_t baud;
/* Since when bytes have come and no frame, at a rate that was agreed on. */
static bool doubting;
static uint64_t doubt_began;
/* Of the lease that used this device last; outlives sessions, not resets (docs/leases.md). */
static uint64_t newest_token;

/* Passes that wait to be sent in one frame. */
static struct {
    const char *region;
    uint32_t count;
    uint32_t first_index;
    uint32_t result_bytes;
    uint64_t begin;
    uint64_t end;
    uint8_t passes[GATHERED_PASSES * PASS_BYTES];
    uint8_t results[GATHERED_RESULT_BYTES];
} gathered;

/* ---- sending ---- */

static void begin(const char *type)
{
    wire_begin(&frame);
    wire_add_text(&frame, "t", type);
}

static void send_gathered(void);

static void begin_sequenced(const char *type)
{
    send_gathered();
    begin(type);
    wire_add_uint(&frame, "s", next_sent++);
}

static void finish(void)
{
    port_write(encoded, wire_finish(&frame, encoded));
}

static void put_le32(uint8_t *bytes, uint64_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8u * i));
}

static void add_baud_rates(void)
{
    uint8_t rates[4u * MOST_BAUD_RATES];
    uint32_t count = lab_port.baud_rate_count < MOST_BAUD_RATES ? lab_port.baud_rate_count : MOST_BAUD_RATES;
    for (uint32_t i = 0; i < count; i++)
        put_le32(rates + 4u * i, lab_port.baud_rates[i]);
    wire_add_bytes(&frame, "br", rates, 4u * count);
}

static void send_hello(void)
{
    next_sent = 0;
    last_accepted = 0;
    begin_sequenced("hello");
    wire_add_uint(&frame, "v", WIRE_VERSION);
    wire_add_text(&frame, "b", lab_build_id);
    wire_add_text(&frame, "d", lab_port.board);
    wire_add_text(&frame, "k", lab_port.clock_kind);
    wire_add_uint(&frame, "h", port_clock_hz());
    wire_add_uint(&frame, "u", WIRE_MTU);
    wire_add_uint(&frame, "cr", CREDITS);
    wire_add_uint(&frame, "ba", lab_port.blob_address);
    wire_add_uint(&frame, "bs", lab_port.blob_bytes - job_scratch_bytes());
    wire_add_uint(&frame, "ar", lab_model.arena_bytes);
    wire_add_uint(&frame, "st", lab_port.stack_bytes);
    wire_add_text(&frame, "mo", lab_model.name);
    if (lab_port.baud_rate_count > 0)
        add_baud_rates();
    finish();
}

static void send_ack(uint32_t sequence)
{
    begin("ack");
    wire_add_uint(&frame, "a", sequence);
    finish();
}

static void begin_error(const char *code, const char *place, const char *message)
{
    begin_sequenced("error");
    wire_add_text(&frame, "c", code);
    wire_add_text(&frame, "p", place);
    wire_add_text(&frame, "m", message);
}

/* Answers a frame that is not accepted; its number stays free. */
static void refuse(uint64_t sequence, const char *code, const char *place, const char *message)
{
    begin_error(code, place, message);
    wire_add_uint(&frame, "a", sequence);
    finish();
}

void session_error(const char *code, const char *place, const char *message)
{
    begin_error(code, place, message);
    finish();
}

static void begin_event(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles)
{
    begin_sequenced("event");
    wire_add_text(&frame, "r", region);
    wire_add_uint(&frame, "i", index);
    wire_add_uint(&frame, "b", begin_cycles);
    wire_add_uint(&frame, "e", end_cycles);
    events++;
}

static void send_gathered(void)
{
    uint32_t count = gathered.count;
    if (count == 0)
        return;
    gathered.count = 0;
    begin_sequenced("events");
    wire_add_text(&frame, "r", gathered.region);
    wire_add_uint(&frame, "i", gathered.first_index);
    wire_add_uint(&frame, "b", gathered.begin);
    wire_add_bytes(&frame, "p", gathered.passes, (size_t)count * PASS_BYTES);
    if (gathered.result_bytes != 0)
        wire_add_bytes(&frame, "d", gathered.results, (size_t)count * gathered.result_bytes);
    finish();
}

/* Whether a pass continues those that wait. None waits longer than a second. */
static bool continues(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles, uint32_t bytes)
{
    return gathered.count < GATHERED_PASSES && region == gathered.region && bytes == gathered.result_bytes &&
           index == gathered.first_index + gathered.count && begin_cycles - gathered.end <= UINT32_MAX &&
           (gathered.count + 1) * bytes <= GATHERED_RESULT_BYTES && end_cycles - gathered.begin <= port_clock_hz();
}

static void gather(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles, const uint8_t *data,
                   uint32_t bytes)
{
    if (gathered.count != 0 && !continues(region, index, begin_cycles, end_cycles, bytes))
        send_gathered();
    if (gathered.count == 0) {
        gathered.region = region;
        gathered.first_index = index;
        gathered.result_bytes = bytes;
        gathered.begin = begin_cycles;
        gathered.end = begin_cycles;
    }
    uint8_t *pass = gathered.passes + gathered.count * PASS_BYTES;
    put_le32(pass, begin_cycles - gathered.end);
    put_le32(pass + 4, end_cycles - begin_cycles);
    for (uint32_t i = 0; i < bytes; i++)
        gathered.results[gathered.count * bytes + i] = data[i];
    gathered.count++;
    gathered.end = end_cycles;
    events++;
}

void session_event(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles)
{
    if (end_cycles - begin_cycles <= UINT32_MAX) {
        gather(region, index, begin_cycles, end_cycles, NULL, 0);
        return;
    }
    begin_event(region, index, begin_cycles, end_cycles);
    finish();
}

void session_event_with_result(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles,
                               const uint8_t *data, uint32_t bytes)
{
    if (bytes <= EVENT_RESULT_BYTES && end_cycles - begin_cycles <= UINT32_MAX) {
        gather(region, index, begin_cycles, end_cycles, data, bytes);
        results++;
        return;
    }
    session_event(region, index, begin_cycles, end_cycles);
    session_result(index, data, bytes);
}

void session_window(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles, uint32_t passes)
{
    begin_event(region, index, begin_cycles, end_cycles);
    wire_add_uint(&frame, "c", passes);
    finish();
}

void session_event_with_metric(const char *region, uint32_t index, uint64_t begin_cycles, uint64_t end_cycles,
                               const char *name, float value)
{
    begin_event(region, index, begin_cycles, end_cycles);
    wire_add_text(&frame, "n", name);
    wire_add_float(&frame, "v", value);
    finish();
}

void session_metric(const char *name, float value)
{
    begin_sequenced("metric");
    wire_add_text(&frame, "n", name);
    wire_add_float(&frame, "v", value);
    finish();
}

void session_log(const char *message)
{
    begin_sequenced("log");
    wire_add_text(&frame, "m", message);
    finish();
}

static void send_result(uint32_t index, const char *name, const uint8_t *data, uint32_t bytes, uint32_t chunk_bytes)
{
    uint32_t offset = 0;
    do {
        uint32_t chunk = bytes - offset < chunk_bytes ? bytes - offset : chunk_bytes;
        begin_sequenced("result");
        wire_add_uint(&frame, "i", index);
        if (name != NULL)
            wire_add_text(&frame, "n", name);
        wire_add_bytes(&frame, "d", data + offset, chunk);
        if (bytes > chunk_bytes) {
            wire_add_uint(&frame, "o", offset);
            wire_add_uint(&frame, "z", bytes);
        }
        finish();
        offset += chunk;
    } while (offset < bytes);
    results++;
}

void session_result(uint32_t index, const uint8_t *data, uint32_t bytes)
{
    send_result(index, NULL, data, bytes, RESULT_CHUNK);
}

void session_named_result(uint32_t index, const char *name, const uint8_t *data, uint32_t bytes)
{
    send_result(index, name, data, bytes, RESULT_CHUNK - SESSION_NAME_CHARACTERS);
}

/* Enough for the calls of an inference many times over; 5 frames. */
static void send_stack(const uint8_t *stack, uint32_t bytes)
{
    uint32_t count = bytes < STACK_BYTES_SENT ? bytes : STACK_BYTES_SENT;
    for (uint32_t offset = 0; offset < count; offset += RESULT_CHUNK) {
        begin_sequenced("stack");
        wire_add_uint(&frame, "a", (uintptr_t)stack + offset);
        wire_add_bytes(&frame, "d", stack + offset, count - offset < RESULT_CHUNK ? count - offset : RESULT_CHUNK);
        finish();
    }
}

void session_crash(const char *code, const char *message, const session_fault_t *fault)
{
    static const uint8_t flush = 0;
    port_write(&flush, 1);
    send_gathered();
    send_stack(fault->stack, fault->stack_bytes);
    begin_error(code, "fault", message);
    wire_add_uint_map(&frame, "g", fault->names, fault->values, fault->count);
    wire_add_text(&frame, "r", region_running());
    wire_add_uint(&frame, "y", memory_stack_high_water(lab_port.stack, lab_port.stack_bytes));
    finish();
}

/* ---- receiving ---- */

static uint32_t get_u32(const cbor_map_t *message, const char *key, uint32_t otherwise)
{
    uint64_t value;
    if (!cbor_get_uint(message, key, &value))
        return otherwise;
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static void accept(uint32_t sequence)
{
    last_accepted = sequence;
    send_ack(sequence);
}

static void handle_hello(const cbor_map_t *message)
{
    uint64_t version;
    if (!cbor_get_uint(message, "v", &version) || version != WIRE_VERSION)
        refuse(0, "version", "hello", "this device speaks version 1");
    else
        send_hello();
}

static void handle_put(const cbor_map_t *message, uint32_t sequence)
{
    cbor_span_t name = {NULL, 0};
    cbor_span_t chunk;
    uint64_t total = UINT64_MAX;
    uint64_t place;
    uint64_t crc;
    blob_status_t status = BLOB_SIZE;
    cbor_get_text(message, "n", &name);
    cbor_get_uint(message, "z", &total);
    if (cbor_get_uint(message, "p", &place) && cbor_get_uint(message, "k", &crc))
        status = blob_adopt(&name, total, place, crc);
    else if (cbor_get_uint(message, "o", &place) && cbor_get_bytes(message, "d", &chunk))
        status = blob_put(&name, total, place, &chunk);

    if (status == BLOB_OK)
        accept(sequence);
    else if (status == BLOB_CHECKSUM)
        refuse(sequence, "checksum", "put", "the memory does not hold what the checksum says");
    else
        refuse(sequence, "size", "put", "the blob does not fit, or the chunk does not continue it");
}

static void finish_job(uint64_t started)
{
    bool stack_intact = memory_stack_guard_intact(lab_port.stack);
    if (!stack_intact || !memory_arena_guard_intact()) {
        session_error("overflow", stack_intact ? "arena" : "stack", "the guard behind it was overwritten");
        return;
    }
    begin_sequenced("done");
    wire_add_uint(&frame, "y", memory_stack_high_water(lab_port.stack, lab_port.stack_bytes));
    wire_add_uint(&frame, "a", memory_arena_high_water());
    wire_add_uint(&frame, "c", port_cycles() - started);
    wire_add_uint(&frame, "n", events);
    wire_add_uint(&frame, "x", results);
    finish();
}

static void handle_run(const cbor_map_t *message, uint32_t sequence)
{
    cbor_span_t name = {NULL, 0};
    cbor_span_t blob = {NULL, 0};
    accept(sequence);
    uint64_t started = port_cycles();
    cbor_get_text(message, "j", &name);
    cbor_get_text(message, "n", &blob);
    job_function_t function = job_find(&name);
    if (function == NULL) {
        session_error("unknown", "run", "this image has no such job");
        return;
    }
    job_parameters_t job = {
        .parameters = *message,
        .blob = blob_find(&blob),
        .count = get_u32(message, "c", 0),
        .warmup = get_u32(message, "w", 0),
        .repeats = get_u32(message, "r", 1),
        .flags = get_u32(message, "f", 0),
        .quiet_us = get_u32(message, "q", 0),
    };
    events = 0;
    results = 0;
    memory_paint_arena();
    if (function(&job))
        finish_job(started);
}

static void change_baud(uint32_t wanted)
{
    lab_port.set_baud(wanted);
    baud = wanted;
    doubting = false;
    /* Whatever was half received is of the old rate. */
    receiver = (wire_receiver_t){0};
}

static bool offers_baud(uint32_t wanted)
{
    for (uint32_t i = 0; i < lab_port.baud_rate_count; i++) {
        if (lab_port.baud_rates[i] == wanted)
            return true;
    }
    return false;
}

/* Without data: change the rate. With data, at this rate: send it back. */
static void handle_baud(const cbor_map_t *message, uint32_t sequence)
{
    cbor_span_t probe;
    uint32_t wanted = get_u32(message, "b", 0);
    bool is_probe = cbor_get_bytes(message, "d", &probe);
    if (!offers_baud(wanted) || (is_probe && (wanted != baud || probe.length > RESULT_CHUNK))) {
        refuse(sequence, "input", "b", "this board does not offer that rate, or is not at it");
        return;
    }
    accept(sequence);
    if (!is_probe) {
        change_baud(wanted);
        return;
    }
    begin_sequenced("baud");
    wire_add_uint(&frame, "b", baud);
    wire_add_bytes(&frame, "d", probe.bytes, probe.length);
    finish();
}

/* A host that goes back to the first rate, or starts anew with it, is heard as garbage here. */
static void doubt(void)
{
    uint64_t now = port_cycles();
    if (!doubting) {
        doubting = true;
        doubt_began = now;
    } else if (now - doubt_began > port_clock_hz() / 2) {
        change_baud(lab_port.baud_rates[0]);
    }
}

/* Whether the sender's lease has ended. Its refusal has no number: the session may be another holder's by now. */
static bool is_stale(const cbor_map_t *message, uint64_t sequence)
{
    uint64_t token;
    if (!cbor_get_uint(message, "tk", &token))
        return false;
    if (token >= newest_token) {
        newest_token = token;
        return false;
    }
    begin("error");
    wire_add_text(&frame, "c", "stale-lease");
    wire_add_text(&frame, "p", "lease");
    wire_add_text(&frame, "m", "a newer lease has used this device");
    wire_add_uint(&frame, "a", sequence);
    wire_add_uint(&frame, "tk", token);
    wire_add_uint(&frame, "n", newest_token);
    finish();
    return true;
}

static void handle(const cbor_map_t *message)
{
    cbor_span_t type;
    uint64_t sequence;
    if (!cbor_get_text(message, "t", &type) || !cbor_get_uint(message, "s", &sequence)) {
        session_error("unknown", "frame", "a frame needs a type and a sequence number");
        return;
    }
    if (is_stale(message, sequence))
        return;
    if (cbor_text_is(&type, "hello")) {
        handle_hello(message);
        return;
    }
    if (sequence == last_accepted && sequence != 0) {
        send_ack(last_accepted);
        return;
    }
    if (sequence != (uint64_t)last_accepted + 1 || sequence > UINT32_MAX) {
        refuse(sequence, "sequence", "frame", "this is not the next number");
        return;
    }
    if (cbor_text_is(&type, "put")) {
        handle_put(message, (uint32_t)sequence);
    } else if (cbor_text_is(&type, "run")) {
        handle_run(message, (uint32_t)sequence);
    } else if (cbor_text_is(&type, "reset")) {
        accept((uint32_t)sequence);
        port_reset();
    } else if (cbor_text_is(&type, "baud")) {
        handle_baud(message, (uint32_t)sequence);
    } else {
        refuse(sequence, "unknown", "frame", "no such message type");
    }
}

void session_receive(uint8_t byte)
{
    cbor_map_t message;
    if (wire_receive(&receiver, byte, &message)) {
        doubting = false;
        handle(&message);
    } else if (lab_port.baud_rate_count > 0 && baud != lab_port.baud_rates[0]) {
        doubt();
    }
}

void session_init(void)
{
    static const uint8_t flush = 0;
    receiver = (wire_receiver_t){0};
    baud = lab_port.baud_rate_count > 0 ? lab_port.baud_rates[0] : 0;
    blob_init(lab_port.blob_store, lab_port.blob_bytes - job_scratch_bytes(), lab_port.blob_address);
    port_write(&flush, 1);
    send_hello();
}
