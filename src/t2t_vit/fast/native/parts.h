// float32 numbers as sums of three bfloat16 ones, which the processor's matrix unit multiplies: 8 + 8 + 8 bits of
// mantissa hold the 24 of float32, so nothing is lost but in numbers below 1e-33. (Henry, Tang, Heinecke, 2019,
// "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations".)
#pragma once

#include <algorithm>

#include "tiles.h"
#include "vectors.h"

constexpr int PARTS = 3;
constexpr int64_t PARTED = PARTS * PAIRED;  // bfloat16 numbers of a tile's three parts, which lie one behind the other

struct Parts {
  __m256i part[PARTS];  // sixteen bfloat16 numbers each, the greatest first
};

inline Parts split(__m512 values) {
  Parts parts;
  for (int p = 0; p < PARTS; p++) {
    parts.part[p] = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
    values = sub(values, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts.part[p]), 16)));
  }
  return parts;
}

// One side of a product, in rows that follow each other: a row is a line, a row of the left side or a column of the right
// one, `depth` numbers deep.
struct Side {
  const float* at;
  int64_t lines, depth;
};

inline void store_parts(const Parts& low, const Parts& high, bf16* to) {
  for (int p = 0; p < PARTS; p++)
    _mm512_store_si512(to + p * PAIRED, _mm512_inserti64x4(_mm512_castsi256_si512(low.part[p]), high.part[p], 1));
}

// A tile of 16 lines by 32 numbers: three parts of 16 rows of 64 bytes, a row a line. What is outside is 0; what is next is
// fetched ahead.
inline void split_tile(const Side& side, int64_t line, int64_t deep, bf16* to) {
  const __mmask16 low = first(side.depth - deep), high = first(side.depth - deep - LANES);
  const float* from = side.at + line * side.depth + deep;
  for (int64_t i = 0; i < TILE_ROWS; i++, from += side.depth, to += TILE_DEPTH) {
    _mm_prefetch(from + TILE_DEPTH, _MM_HINT_T0);
    _mm_prefetch(from + TILE_DEPTH + LANES, _MM_HINT_T0);
    const bool live = line + i < side.lines;
    store_parts(split(load(from, live ? low : 0)), split(load(from + LANES, live ? high : 0)), to);
  }
}

// 16 lines as tiles, `steps` of them with three parts each, for the left or the right of a product.
inline void lay_out_lines(const Side& side, int64_t line, bool right, bf16* to) {
  alignas(64) bf16 turning[PARTED];
  for (int64_t deep = 0; deep < side.depth; deep += TILE_DEPTH, to += PARTED) {
    split_tile(side, line, deep, right ? turning : to);
    if (!right) continue;
    for (int p = 0; p < PARTS; p++)
      transpose_words(reinterpret_cast<const int32_t*>(turning + p * PAIRED), TILE_ROWS, TILE_ROWS,
                      reinterpret_cast<int32_t*>(to + p * PAIRED));
  }
}
