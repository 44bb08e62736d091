/* Output, one line at a time, without the formatting of the C library. */
#ifndef LAB_MLPERF_TEXT_H
#define LAB_MLPERF_TEXT_H

#include <stdint.h>

void text_string(const char *text);

/* Like text_string(), with everything that is not printable ASCII shown as '?'. */
void text_quoted(const char *text);

void text_uint(uint64_t value);

/* `digits` hex digits, lower case, leading zeros included. */
void text_hex(uint32_t value, uint32_t digits);

/* Three decimals, rounded as printf's "%.3f" rounds: to the nearest, exact halves to even. From 2^54 on it says "inf". */
void text_real(float value);

/* Ends the line and sends it. */
void text_line(void);

#endif
