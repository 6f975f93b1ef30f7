// The product of two sides in bfloat16 on the processor's vector unit (AVX-512), whose instruction adds to 16 answers of a
// row the products of two of the left side's numbers with 16 pairs of the right side's.
#pragma once

#include <algorithm>

#include "tiles.h"
#include "vectors.h"

constexpr int64_t SIDE = 32;       // answers of a row that are made together
constexpr int64_t LEFT_ROWS = 1;   // the left side holds no rows but its own
constexpr int64_t TOGETHER = 8;    // rows whose answers are in registers together: 16 sums hide an instruction's delay

// The left side: rows as they are.
struct Left {
  const bf16* at;
  int64_t stride;  // from row to row, in numbers
};

// Rows of `width` numbers, laid out as `left_place` says.
inline Left left_of(const bf16* at, int64_t width) { return {at, width}; }

inline int64_t left_place(int64_t row, int64_t column, int64_t width) { return row * width + column; }

// The right side: tiles of 16 pairs by 16 columns.
struct Right {
  const bf16* at;
  int64_t across, down;  // from 16 columns, and from 16 pairs, to the next, in numbers
};

// Two numbers in all lanes.
inline __m512bh pair_in_all(const bf16* at) {
  int32_t pair;
  std::memcpy(&pair, at, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// sums += left right for R rows, V times 16 columns and at most 16 pairs of one tile.
template <int R, int V>
inline __attribute__((always_inline)) void multiply_tile(Left left, Right right, int64_t pairs, __m512 (&sums)[R][V]) {
#pragma GCC unroll 4
  for (int64_t pair = 0; pair < pairs; pair++) {
    __m512bh columns[V];
    for (int v = 0; v < V; v++)
      columns[v] = reinterpret_cast<__m512bh>(_mm512_load_si512(right.at + v * right.across + pair * TILE_DEPTH));
    for (int r = 0; r < R; r++) {
      const __m512bh numbers = pair_in_all(left.at + r * left.stride + 2 * pair);
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], numbers, columns[v]);
    }
  }
}

// out (R, 16 V) = left right, or out += left right; rows of `out` are `stride` apart.
template <int R, int V>
__attribute__((noinline)) void multiply_block(Left left, Right right, int64_t pairs, float* out, int64_t stride, bool adds) {
  __m512 sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = adds ? load(out + r * stride + v * LANES) : all(0.0f);
  for (; pairs >= LANES; pairs -= LANES, left.at += TILE_DEPTH, right.at += right.down)
    multiply_tile(left, right, LANES, sums);
  multiply_tile(left, right, pairs, sums);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * stride + v * LANES, sums[r][v]);
}

// The same for `rows` rows, at most `TOGETHER`.
template <int V, int R = TOGETHER>
inline void multiply_some(int64_t rows, Left left, Right right, int64_t pairs, float* out, int64_t stride, bool adds) {
  if (rows == R) return multiply_block<R, V>(left, right, pairs, out, stride, adds);
  if constexpr (R > 1) multiply_some<V, R - 1>(rows, left, right, pairs, out, stride, adds);
}

// The same for any number of rows, and `vectors` times 16 columns.
inline void multiply(int64_t rows, int64_t vectors, Left left, Right right, int64_t pairs, float* out, int64_t stride,
                     bool adds) {
  for (int64_t v = 0; v < vectors; v += 2)
    for (int64_t row = 0; row < rows; row += TOGETHER) {
      const int64_t some = std::min(TOGETHER, rows - row);
      const Left from{left.at + row * left.stride, left.stride};
      const Right to{right.at + v * right.across, right.across, right.down};
      float* answers = out + row * stride + v * LANES;
      if (v + 1 < vectors)
        multiply_some<2>(some, from, to, pairs, answers, stride, adds);
      else
        multiply_some<1>(some, from, to, pairs, answers, stride, adds);
    }
}

// finish(row, column, products) for each row of 32 answers of left right, both `depth` deep; `right` is tiles, (columns / 16,
// depth / 32, 16, 16, 2). `products` is room for a block.
template <class Finish>
inline void product_of(Left left, const bf16* right, int64_t depth, int64_t rows, int64_t columns, float* products,
                       const Finish& finish) {
  for (int64_t column = 0; column < columns; column += SIDE)
    for (int64_t row = 0; row < rows; row += TOGETHER) {
      const int64_t some = std::min(TOGETHER, rows - row);
      multiply_some<2>(some, {left.at + row * left.stride, left.stride},
                       {right + column * depth, LANES * depth, PAIRED}, depth / 2, products, SIDE, false);
      for (int64_t i = 0; i < some; i++) finish(row + i, column, products + i * SIDE);
    }
}
