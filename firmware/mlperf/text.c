#include "text.h"

#include "port.h"

#include <stddef.h>
#include <string.h>

#define LINE_PART 128u

/* Lines longer than this go out in parts. */
static uint8_t pending[LINE_PART];
static size_t pending_count;

static void flush(void)
{
    port_write(pending, pending_count);
    pending_count = 0;
}

static void put(char character)
{
    if (pending_count == sizeof pending)
        flush();
    pending[pending_count++] = (uint8_t)character;
}

void text_string(const char *text)
{
    while (*text)
        put(*text++);
}

void text_quoted(const char *text)
{
    for (; *text; text++)
        put(*text >= ' ' && *text <= '~' ? *text : '?');
}

static void put_decimal(uint64_t value, uint32_t least_digits)
{
    char digits[20];
    uint32_t count = 0;
    while (value > 0 || count < least_digits) {
        digits[count++] = (char)('0' + value % 10u);
        value /= 10u;
    }
    while (count > 0)
        put(digits[--count]);
}

void text_uint(uint64_t value)
{
    put_decimal(value, 1);
}

void text_hex(uint32_t value, uint32_t digits)
{
    for (uint32_t shift = 4u * digits; shift > 0; shift -= 4u)
        put("0123456789abcdef"[value >> (shift - 4u) & 0xFu]);
}

/* `value` / 2^shift to the nearest, exact halves to even; `value` below 2^35. */
static uint64_t shifted_right(uint64_t value, uint32_t shift)
{
    if (shift > 40u)
        return 0;
    uint64_t quotient = value >> shift;
    uint64_t rest = value - (quotient << shift);
    uint64_t half = (uint64_t)1 << (shift - 1u);
    return quotient + (rest > half || (rest == half && (quotient & 1u)));
}

void text_real(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t exponent = bits >> 23 & 0xFFu;
    uint32_t fraction = bits & 0x7FFFFFu;
    if (exponent == 0xFFu && fraction != 0) {
        text_string("nan");
        return;
    }
    if (bits >> 31)
        put('-');
    /* The value is thousandths / 1000 * 2^(exponent - 150), subnormal ones aside, which are 0 to three decimals. */
    uint64_t thousandths = (uint64_t)(exponent > 0 ? fraction | 0x800000u : fraction) * 1000u;
    if (exponent > 150u + 30u) {
        text_string("inf");
        return;
    }
    thousandths = exponent < 150u ? shifted_right(thousandths, 150u - exponent) : thousandths << (exponent - 150u);
    put_decimal(thousandths / 1000u, 1);
    put('.');
    put_decimal(thousandths % 1000u, 3);
}

void text_line(void)
{
    put('\r');
    put('\n');
    flush();
}
