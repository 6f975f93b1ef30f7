// Tiles: 16 rows of 64 bytes, what one product instruction of a matrix unit (AMX) takes. A tile of bfloat16 that stands on
// the right of a product holds pairs: row r, word c is (B[2r][c], B[2r + 1][c]). Each of its rows is also what the vector
// unit's product instruction takes, so right sides lie in tiles on every processor.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "vectors.h"

// Whether the matrix unit multiplies: library.py asks for it where it may be used, and the compiler has to know it.
#if defined(T2T_VIT_AMX) && defined(__AMX_BF16__)
#define TILES
#endif

constexpr int TILE_ROWS = 16, TILE_DEPTH = 32, TILE_BYTES = 64;
constexpr int64_t PAIRED = TILE_ROWS * TILE_DEPTH;  // bfloat16 numbers of a tile

// The matrix unit's eight tiles, full size, of this thread, for as long as it lives.
class Tiles {
 public:
#ifdef TILES
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = TILE_BYTES, shape.rows[tile] = TILE_ROWS;
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
#else
  Tiles() {}
#endif
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// 16 rows of 16 words (`rows` of them live, the others 0), `stride` words apart, turned over.
inline void transpose_words(const int32_t* from, int64_t stride, int64_t rows, int32_t* to) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i++) a[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  constexpr int EVEN = 0x88, ODD = 0xdd;
  for (int j = 0; j < 4; j++) {
    b[j] = _mm512_shuffle_i32x4(a[j], a[4 + j], EVEN);
    b[4 + j] = _mm512_shuffle_i32x4(a[j], a[4 + j], ODD);
    b[8 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], EVEN);
    b[12 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], ODD);
  }
  for (int j = 0; j < 4; j++) {
    _mm512_store_si512(to + j * 16, _mm512_shuffle_i32x4(b[j], b[8 + j], EVEN));
    _mm512_store_si512(to + (8 + j) * 16, _mm512_shuffle_i32x4(b[j], b[8 + j], ODD));
    _mm512_store_si512(to + (4 + j) * 16, _mm512_shuffle_i32x4(b[4 + j], b[12 + j], EVEN));
    _mm512_store_si512(to + (12 + j) * 16, _mm512_shuffle_i32x4(b[4 + j], b[12 + j], ODD));
  }
}

// 32 rows of 16 numbers (`rows` of them live, the others 0), `stride` apart, as a tile that stands on the right.
inline void pair_rows(const bf16* from, int64_t stride, int64_t rows, bf16* to) {
  const auto words = [&](int64_t row) {
    if (row >= rows) return _mm512_setzero_si512();
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + row * stride)));
  };
  for (int64_t row = 0; row < TILE_DEPTH; row += 2, to += TILE_DEPTH)
    _mm512_store_si512(to, _mm512_or_si512(words(row), _mm512_slli_epi32(words(row + 1), 16)));
}
