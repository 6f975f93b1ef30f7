// The normal distribution, for the exact GELU x Phi(x).
#pragma once

#include "vectors.h"

// Phi(x). Phi(-|x|) = exp(-x^2 / 2) P(t) t / 2, t = 1 / (1 + |x| p): Abramowitz and Stegun 7.1.26, whose error is 1.5e-7
// at most.
inline __m512 normal_below(__m512 x) {
  const __m512 power = exp2_of(mul(mul(x, x), all(-0.5f * LOG2_E)));
  const __m512 t = _mm512_div_ps(all(1.0f), fma(_mm512_abs_ps(x), all(0.3275911f * 0.70710678f), all(1.0f)));
  __m512 tail = all(0.5f * 1.061405429f);
  for (const float coefficient : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    tail = fma(tail, t, all(0.5f * coefficient));
  tail = mul(mul(tail, t), power);
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
  return _mm512_mask_sub_ps(tail, static_cast<__mmask16>(~negative), all(1.0f), tail);
}
