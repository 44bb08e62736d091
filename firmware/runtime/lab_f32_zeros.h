/* Sixteen zeros: what sums start from. */
#ifndef LAB_F32_ZEROS_H
#define LAB_F32_ZEROS_H

extern const float lab_f32_zeros[16];

#endif
