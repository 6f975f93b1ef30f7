// What the matrix unit's instructions do, by the vector unit: the kernels for AMX compiled with this run without it, and
// their layouts and loops can be tested on a processor that has none.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AMX_BF16__ 1
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig software_loadconfig
#define _tile_release software_release
#define _tile_zero software_zero
#define _tile_loadd software_loadd
#define _tile_stored software_stored
#define _tile_dpbf16ps software_dpbf16ps

struct alignas(64) SoftwareTile {
  char rows[16][64];
};
inline thread_local SoftwareTile software_tiles[8];
inline thread_local bool software_tiles_are_configured;

inline SoftwareTile& software_tile(int tile) {
  if (!software_tiles_are_configured) __builtin_trap();  // as the processor does
  return software_tiles[tile];
}

inline void software_loadconfig(const void*) { software_tiles_are_configured = true; }
inline void software_release() { software_tiles_are_configured = false; }
inline void software_zero(int tile) { std::memset(&software_tile(tile), 0, sizeof(SoftwareTile)); }

inline void software_loadd(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < 16; row++)
    std::memcpy(software_tile(tile).rows[row], static_cast<const char*>(from) + row * stride, 64);
}

inline void software_stored(int tile, void* to, int64_t stride) {
  for (int row = 0; row < 16; row++)
    std::memcpy(static_cast<char*>(to) + row * stride, software_tile(tile).rows[row], 64);
}

// The first and the second numbers of 16 pairs.
inline __m512 software_firsts(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 software_seconds(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)));
}

// First and second numbers are summed apart and from 0 on, and then added to what was there, which is more exact than one
// long sum.
inline void software_dpbf16ps(int sums, int left, int right) {
  for (int row = 0; row < 16; row++) {
    __m512 firsts = _mm512_setzero_ps(), seconds = _mm512_setzero_ps();
    for (int pair = 0; pair < 16; pair++) {
      int32_t numbers;
      std::memcpy(&numbers, software_tile(left).rows[row] + 4 * pair, 4);
      const __m512i ours = _mm512_set1_epi32(numbers), theirs = _mm512_load_si512(software_tile(right).rows[pair]);
      firsts = _mm512_fmadd_ps(software_firsts(ours), software_firsts(theirs), firsts);
      seconds = _mm512_fmadd_ps(software_seconds(ours), software_seconds(theirs), seconds);
    }
    float* to = reinterpret_cast<float*>(software_tile(sums).rows[row]);
    _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), _mm512_add_ps(firsts, seconds)));
  }
}
