/* Four sums at once for lab_f32_sink.c, on Arm cores with Thumb-2 and a single-precision FPU. */
#ifndef LAB_F32_SINK_ARM_H
#define LAB_F32_SINK_ARM_H

static inline void store_four(float *target, const float *sums)
{
    __asm__ volatile("vldmia %1, {s4-s7}\n"
                     "vstmia %0, {s4-s7}\n"
                     :
                     : "r"(target), "r"(sums)
                     : "s4", "s5", "s6", "s7", "memory");
}

/* target += scale * (sums + decay * target) */
static inline void update_four(float *target, const float *sums, float scale, float decay)
{
    __asm__ volatile("vldmia %0, {s4-s7}\n"
                     "vldmia %1, {s8-s11}\n"
                     "vfma.f32 s8, s4, %3\n"
                     "vfma.f32 s9, s5, %3\n"
                     "vfma.f32 s10, s6, %3\n"
                     "vfma.f32 s11, s7, %3\n"
                     "vfma.f32 s4, s8, %2\n"
                     "vfma.f32 s5, s9, %2\n"
                     "vfma.f32 s6, s10, %2\n"
                     "vfma.f32 s7, s11, %2\n"
                     "vstmia %0, {s4-s7}\n"
                     :
                     : "r"(target), "r"(sums), "t"(scale), "t"(decay)
                     : "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "memory");
}

#endif
