/* What differs between the four benchmarks: what the client loads, and what the results are. */
#ifndef LAB_MLPERF_BENCHMARK_H
#define LAB_MLPERF_BENCHMARK_H

#include <stdint.h>

typedef struct {
    const char *id;
    uint32_t bytes_per_value; /* bytes the client loads for each value of the input tensor */
    void (*fill_input)(const uint8_t *loaded, int8_t *input);
    /* The values between the brackets of m-results, comma-separated. */
    void (*put_results)(const uint8_t *loaded, const int8_t *output);
} benchmark_t;

extern const benchmark_t benchmark_kws01; /* int8 features as they are */
extern const benchmark_t benchmark_ic01;  /* uint8 pixels; the tensor holds them less 128 */
extern const benchmark_t benchmark_vww01; /* as ic01 */
extern const benchmark_t benchmark_ad01;  /* float32, little-endian; the result is the mean square error */

#define BENCHMARK_OF(id) BENCHMARK_NAMED(id)
#define BENCHMARK_NAMED(id) benchmark_##id

#endif
