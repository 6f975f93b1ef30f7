// Sixteen numbers at a time (AVX-512): float32 and bfloat16 in memory, float32 in registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

using bf16 = uint16_t;
constexpr int LANES = 16;

// The first `count` lanes, all of them from 16 on.
inline __mmask16 first(int64_t count) {
  return count >= LANES ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

inline __m512 load(const float* from, __mmask16 mask = 0xffff) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512 load(const bf16* from, __mmask16 mask = 0xffff) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

inline void store(float* to, __m512 values, __mmask16 mask = 0xffff) { _mm512_mask_storeu_ps(to, mask, values); }
inline void store(bf16* to, __m512 values, __mmask16 mask = 0xffff) {
  _mm256_mask_storeu_epi16(to, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

inline float number(const float* at) { return *at; }
inline float number(const bf16* at) {
  const uint32_t bits = static_cast<uint32_t>(*at) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline __m512 all(float value) { return _mm512_set1_ps(value); }
inline __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
inline __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
inline __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
inline __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
inline __m512 greater(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
inline float sum(__m512 values) { return _mm512_reduce_add_ps(values); }
inline float greatest(__m512 values) { return _mm512_reduce_max_ps(values); }

// 2^x = 2^n 2^f, n the nearest whole number: Taylor's polynomial of 2^f on [-1/2, 1/2] errs by 1.2e-7; below 2^-150 it is 0.
// The greater of two is the second where one is not a number, so such an x stays one.
inline __m512 exp2_of(__m512 x) {
  x = greater(all(-150.0f), x);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = sub(x, whole);
  __m512 value = all(1.5403530e-4f);
  value = fma(value, rest, all(1.3333558e-3f));
  value = fma(value, rest, all(9.6181291e-3f));
  value = fma(value, rest, all(5.5504109e-2f));
  value = fma(value, rest, all(2.4022651e-1f));
  value = fma(value, rest, all(6.9314718e-1f));
  value = fma(value, rest, all(1.0f));
  return _mm512_scalef_ps(value, whole);
}

// 2^x for x <= 0 that is rounded to bfloat16 next: the polynomial errs by 1e-4, a twentieth of that rounding, and below
// 2^-126 it is 2^-126. Adding 1.5 2^23 rounds to a whole number, which then stands in the last bits, from where it is added
// to the exponent. What is not a number stays so: its last bits are 0, as it came from bfloat16 ones.
inline __m512 exp2_of_weight(__m512 x) {
  constexpr float ROUND = 12582912.0f;
  x = greater(all(-126.0f), x);
  const __m512 whole = add(x, all(ROUND)), rest = sub(x, sub(whole, all(ROUND)));
  __m512 value = fma(all(5.500893e-2f), rest, all(2.4221096e-1f));
  value = fma(value, rest, all(6.9328293e-1f));
  value = fma(value, rest, all(1.0f));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(value), _mm512_slli_epi32(_mm512_castps_si512(whole), 23)));
}

// Numbers too small to be normal are 0 for as long as this lives, in its thread: they cost a hundred times a product.
class NoDenormals {
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | FLUSH_RESULTS | FLUSH_INPUTS); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  static constexpr unsigned FLUSH_RESULTS = 0x8000, FLUSH_INPUTS = 0x0040;
  unsigned before_;
};

constexpr float LOG2_E = 1.44269504f;
inline __m512 exp_of(__m512 x) { return exp2_of(mul(x, all(LOG2_E))); }
