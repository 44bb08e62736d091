#include "wire.h"

#include "crc32.h"

/* ---- receiving ---- */

static void append(wire_receiver_t *receiver, uint8_t byte)
{
    if (receiver->length == sizeof receiver->bytes)
        receiver->broken = true;
    else
        receiver->bytes[receiver->length++] = byte;
}

static uint32_t read_le32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static bool is_valid(const wire_receiver_t *receiver, cbor_map_t *map)
{
    if (receiver->broken || receiver->block != 0 || receiver->length < WIRE_CRC_BYTES)
        return false;
    size_t length = receiver->length - WIRE_CRC_BYTES;
    if (crc32_update(0, receiver->bytes, length) != read_le32(receiver->bytes + length))
        return false;
    return cbor_map_open(map, receiver->bytes, length);
}

static bool end_frame(wire_receiver_t *receiver, cbor_map_t *map)
{
    bool empty = receiver->raw_bytes == 0;
    bool valid = !empty && is_valid(receiver, map);
    if (!empty && !valid) {
        receiver->garbage_frames++;
        receiver->garbage_bytes += receiver->raw_bytes;
    }
    receiver->length = 0;
    receiver->raw_bytes = 0;
    receiver->block = 0;
    receiver->zero_due = false;
    receiver->broken = false;
    return valid;
}

bool wire_receive(wire_receiver_t *receiver, uint8_t byte, cbor_map_t *map)
{
    if (byte == 0)
        return end_frame(receiver, map);
    receiver->raw_bytes++;
    if (receiver->broken)
        return false;
    if (receiver->block > 0) {
        append(receiver, byte);
        receiver->block--;
        return false;
    }
    if (receiver->zero_due)
        append(receiver, 0);
    receiver->block = (uint8_t)(byte - 1u);
    receiver->zero_due = byte != 0xFFu;
    return false;
}

/* ---- sending ---- */

void wire_begin(wire_frame_t *frame)
{
    frame->writer.bytes = frame->payload;
    frame->writer.capacity = WIRE_MTU;
    frame->writer.length = 0;
    frame->writer.overflow = false;
    frame->entries = 0;
    cbor_open_map(&frame->writer);
}

static void add_key(wire_frame_t *frame, const char *key)
{
    frame->entries++;
    cbor_put_text(&frame->writer, key);
}

void wire_add_uint(wire_frame_t *frame, const char *key, uint64_t value)
{
    add_key(frame, key);
    cbor_put_uint(&frame->writer, value);
}

void wire_add_text(wire_frame_t *frame, const char *key, const char *text)
{
    add_key(frame, key);
    cbor_put_text(&frame->writer, text);
}

void wire_add_bytes(wire_frame_t *frame, const char *key, const uint8_t *bytes, size_t count)
{
    add_key(frame, key);
    cbor_put_bytes(&frame->writer, bytes, count);
}

void wire_add_float(wire_frame_t *frame, const char *key, float value)
{
    add_key(frame, key);
    cbor_put_float(&frame->writer, value);
}

void wire_add_uint_map(wire_frame_t *frame, const char *key, const char *const *names, const uint32_t *values,
                       uint32_t count)
{
    add_key(frame, key);
    size_t header = cbor_open_map(&frame->writer);
    for (uint32_t i = 0; i < count; i++) {
        cbor_put_text(&frame->writer, names[i]);
        cbor_put_uint(&frame->writer, values[i]);
    }
    cbor_close_map(&frame->writer, header, count);
}

static size_t cobs_encode(const uint8_t *bytes, size_t count, uint8_t *encoded)
{
    size_t code_at = 0;
    size_t out = 1;
    uint8_t code = 1;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0) {
            encoded[out++] = bytes[i];
            code++;
        }
        bool full = code == 0xFFu;
        if (bytes[i] == 0 || (full && i + 1 < count)) {
            encoded[code_at] = code;
            code_at = out++;
            code = 1;
        }
    }
    encoded[code_at] = code;
    return out;
}

size_t wire_encode(uint8_t *payload, size_t count, uint8_t encoded[WIRE_ENCODED_BYTES])
{
    uint32_t crc = crc32_update(0, payload, count);
    for (uint32_t i = 0; i < WIRE_CRC_BYTES; i++)
        payload[count + i] = (uint8_t)(crc >> (8 * i));
    size_t length = cobs_encode(payload, count + WIRE_CRC_BYTES, encoded);
    encoded[length++] = 0;
    return length;
}

size_t wire_finish(wire_frame_t *frame, uint8_t encoded[WIRE_ENCODED_BYTES])
{
    cbor_writer_t *writer = &frame->writer;
    cbor_close_map(writer, 0, frame->entries);
    if (writer->overflow)
        return 0;
    return wire_encode(frame->payload, writer->length, encoded);
}
