#include "cbor.h"

#include <string.h>

enum { MAJOR_UINT = 0, MAJOR_NEGATIVE, MAJOR_BYTES, MAJOR_TEXT, MAJOR_ARRAY, MAJOR_MAP, MAJOR_TAG, MAJOR_SIMPLE };

typedef struct {
    uint8_t major;
    uint8_t information;
    uint64_t argument;
} head_t;

/* Reads one item head at *at; refuses reserved and indefinite lengths. */
static bool read_head(const uint8_t *bytes, size_t length, size_t *at, head_t *head)
{
    if (*at >= length)
        return false;
    uint8_t first = bytes[(*at)++];
    uint8_t information = first & 0x1Fu;
    head->major = first >> 5;
    head->information = information;
    head->argument = information;
    if (information < 24)
        return true;
    if (information > 27)
        return false;
    size_t width = (size_t)1 << (information - 24);
    if (width > length - *at)
        return false;
    uint64_t argument = 0;
    for (size_t i = 0; i < width; i++)
        argument = argument << 8 | bytes[(*at)++];
    head->argument = argument;
    return true;
}

/* Steps over one item with everything inside it. Iterative, so that nesting costs no stack. */
static bool skip_item(const uint8_t *bytes, size_t length, size_t *at)
{
    uint64_t pending = 1;
    while (pending > 0) {
        head_t head;
        if (!read_head(bytes, length, at, &head))
            return false;
        size_t left = length - *at;
        uint64_t inside = 0;
        switch (head.major) {
        case MAJOR_BYTES:
        case MAJOR_TEXT:
            if (head.argument > left)
                return false;
            *at += (size_t)head.argument;
            break;
        case MAJOR_ARRAY:
            inside = head.argument;
            break;
        case MAJOR_MAP:
            inside = head.argument > left ? head.argument : 2 * head.argument;
            break;
        case MAJOR_TAG:
            inside = 1;
            break;
        default:
            break;
        }
        /* Every item takes at least one byte: this bounds `pending` and refuses absurd counts at once. */
        if (inside > left)
            return false;
        pending = pending - 1 + inside;
    }
    return true;
}

bool cbor_map_open(cbor_map_t *map, const uint8_t *bytes, size_t length)
{
    size_t at = 0;
    head_t head;
    if (!read_head(bytes, length, &at, &head) || head.major != MAJOR_MAP)
        return false;
    for (uint64_t i = 0; i < head.argument; i++) {
        size_t key_at = at;
        head_t key;
        if (!read_head(bytes, length, &key_at, &key) || key.major != MAJOR_TEXT)
            return false;
        if (!skip_item(bytes, length, &at) || !skip_item(bytes, length, &at))
            return false;
    }
    if (at != length)
        return false;
    map->bytes = bytes;
    map->length = length;
    return true;
}

/* Finds the value of `key`: its head, and the place behind the head. */
static bool find(const cbor_map_t *map, const char *key, head_t *value, size_t *behind)
{
    size_t key_length = strlen(key);
    size_t at = 0;
    head_t head;
    if (!read_head(map->bytes, map->length, &at, &head))
        return false;
    for (uint64_t i = 0; i < head.argument; i++) {
        head_t text;
        if (!read_head(map->bytes, map->length, &at, &text))
            return false;
        const uint8_t *name = map->bytes + at;
        at += (size_t)text.argument;
        if (text.argument == key_length && memcmp(name, key, key_length) == 0) {
            *behind = at;
            return read_head(map->bytes, map->length, behind, value);
        }
        if (!skip_item(map->bytes, map->length, &at))
            return false;
    }
    return false;
}

bool cbor_get_uint(const cbor_map_t *map, const char *key, uint64_t *value)
{
    head_t head;
    size_t behind;
    if (!find(map, key, &head, &behind) || head.major != MAJOR_UINT)
        return false;
    *value = head.argument;
    return true;
}

bool cbor_get_float(const cbor_map_t *map, const char *key, float *value)
{
    head_t head;
    size_t behind;
    if (!find(map, key, &head, &behind))
        return false;
    if (head.major == MAJOR_UINT) {
        *value = (float)head.argument;
    } else if (head.major == MAJOR_SIMPLE && head.information == 26) {
        uint32_t bits = (uint32_t)head.argument;
        memcpy(value, &bits, sizeof bits);
    } else if (head.major == MAJOR_SIMPLE && head.information == 27) {
        double wide;
        memcpy(&wide, &head.argument, sizeof wide);
        *value = (float)wide;
    } else {
        return false;
    }
    return true;
}

static bool get_span(const cbor_map_t *map, const char *key, uint8_t major, cbor_span_t *span)
{
    head_t head;
    size_t behind;
    if (!find(map, key, &head, &behind) || head.major != major)
        return false;
    span->bytes = map->bytes + behind;
    span->length = (size_t)head.argument;
    return true;
}

bool cbor_get_text(const cbor_map_t *map, const char *key, cbor_span_t *text)
{
    return get_span(map, key, MAJOR_TEXT, text);
}

bool cbor_get_bytes(const cbor_map_t *map, const char *key, cbor_span_t *bytes)
{
    return get_span(map, key, MAJOR_BYTES, bytes);
}

bool cbor_text_is(const cbor_span_t *text, const char *expected)
{
    size_t length = strlen(expected);
    return text->length == length && memcmp(text->bytes, expected, length) == 0;
}

static void put(cbor_writer_t *writer, const uint8_t *bytes, size_t count)
{
    if (writer->overflow || count > writer->capacity - writer->length) {
        writer->overflow = true;
        return;
    }
    if (count > 0)
        memcpy(writer->bytes + writer->length, bytes, count);
    writer->length += count;
}

static void put_head(cbor_writer_t *writer, uint8_t major, uint64_t argument)
{
    uint8_t head[9];
    uint8_t information;
    size_t width;
    if (argument < 24) {
        information = (uint8_t)argument;
        width = 0;
    } else if (argument <= UINT8_MAX) {
        information = 24;
        width = 1;
    } else if (argument <= UINT16_MAX) {
        information = 25;
        width = 2;
    } else if (argument <= UINT32_MAX) {
        information = 26;
        width = 4;
    } else {
        information = 27;
        width = 8;
    }
    head[0] = (uint8_t)(major << 5 | information);
    for (size_t i = width; i > 0; i--, argument >>= 8)
        head[i] = (uint8_t)argument;
    put(writer, head, 1 + width);
}

size_t cbor_open_map(cbor_writer_t *writer)
{
    size_t header = writer->length;
    put_head(writer, MAJOR_MAP, 0);
    return header;
}

void cbor_close_map(cbor_writer_t *writer, size_t header, uint32_t entries)
{
    if (entries > 23)
        writer->overflow = true;
    if (!writer->overflow)
        writer->bytes[header] = (uint8_t)(MAJOR_MAP << 5 | entries);
}

void cbor_put_uint(cbor_writer_t *writer, uint64_t value)
{
    put_head(writer, MAJOR_UINT, value);
}

void cbor_put_text(cbor_writer_t *writer, const char *text)
{
    size_t length = strlen(text);
    put_head(writer, MAJOR_TEXT, length);
    put(writer, (const uint8_t *)text, length);
}

void cbor_put_bytes(cbor_writer_t *writer, const uint8_t *bytes, size_t count)
{
    put_head(writer, MAJOR_BYTES, count);
    put(writer, bytes, count);
}

void cbor_put_float(cbor_writer_t *writer, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint8_t encoded[5] = {
        MAJOR_SIMPLE << 5 | 26, (uint8_t)(bits >> 24), (uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits,
    };
    put(writer, encoded, sizeof encoded);
}
