/*
 * Energy: a falling edge on the timestamp pin, which is high otherwise. The pin is bit 1 of the marker register; bit 0
 * is high while inferences run. On an emulated board every change also goes to the meter as a marker frame.
 */
#include "port.h"
#include "timestamp.h"
#include "wire.h"

#include <stdint.h>

#define WORK 1u
#define PIN 2u

/* The benchmark asks for 1 us; ten samples of a meter at 100 kS/s are sure to show it. */
#define LOW_US 100u

const char timestamp_mode[] = "energy";

static uint64_t set_marker(uint32_t bits)
{
    uint64_t now = port_cycles();
    *lab_port.marker = PORT_MARKER_WORD(bits);
    return now;
}

static void send_edge(uint64_t cycles, uint32_t bits)
{
    static wire_frame_t frame;
    static uint8_t encoded[WIRE_ENCODED_BYTES];
    wire_begin(&frame);
    wire_add_uint(&frame, "c", cycles);
    wire_add_uint(&frame, "m", bits);
    port_write_marker(encoded, wire_finish(&frame, encoded));
}

void timestamp_init(void)
{
    send_edge(set_marker(PIN), PIN);
}

void timestamp(void)
{
    uint64_t fall = set_marker(0);
    uint64_t hold = (uint64_t)LOW_US * port_clock_hz() / 1000000u;
    while (port_cycles() - fall < hold)
        continue;
    uint64_t rise = set_marker(PIN);
    /* Sending takes time: not before the pulse is over. */
    send_edge(fall, 0);
    send_edge(rise, PIN);
}

void timestamp_work(bool running)
{
    uint32_t bits = running ? PIN | WORK : PIN;
    send_edge(set_marker(bits), bits);
}
