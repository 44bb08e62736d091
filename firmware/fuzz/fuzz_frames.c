/* libFuzzer target: any bytes through the frame decoder and the map reader; every map found is looked through. */
#include "wire.h"

#include <stdlib.h>

static void look_through(const cbor_map_t *map)
{
    static const char *const keys[] = {"", "t", "s", "d", "n"};
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        uint64_t number;
        cbor_span_t span;
        cbor_get_uint(map, keys[k], &number);
        if (!cbor_get_text(map, keys[k], &span) && !cbor_get_bytes(map, keys[k], &span))
            continue;
        /* A span must lie inside the map; the sanitizer sees only the whole buffer. */
        if (span.bytes < map->bytes || span.bytes + span.length > map->bytes + map->length)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    wire_receiver_t receiver = {0};
    cbor_map_t map;
    for (size_t i = 0; i < size; i++)
        if (wire_receive(&receiver, data[i], &map))
            look_through(&map);
    /* And straight into the map reader, since a fuzzer does not find checksums by chance. */
    if (cbor_map_open(&map, data, size))
        look_through(&map);
    return 0;
}
