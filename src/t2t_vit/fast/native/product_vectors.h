// The product of two matrices in bfloat16 on the processor's vector unit (AVX-512). Its instruction takes two neighbouring
// numbers of a row of the left one and 16 pairs of the right one, and adds the sums of their products to 16 answers.
#pragma once

#include <algorithm>

#include "tiles.h"
#include "vectors.h"

constexpr int64_t SIDE = 32;       // answers of a row that are made together
constexpr int64_t CHUNK = 192;     // rows for which each part of the weights is read once: with it the second cache is full
constexpr int64_t BLOCK_ROWS = 8;  // rows that are multiplied together: 16 sums in registers hide an instruction's delay
constexpr int64_t LEFT_ROWS = 1;   // the left side holds no rows but its own

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

// sums += left right for R rows, V times 16 columns and one pair of each.
template <int R, int V>
inline __attribute__((always_inline)) void multiply_pair(Left left, Right right, int64_t pair, __m512 (&sums)[R][V]) {
  __m512bh columns[V];
  for (int v = 0; v < V; v++)
    columns[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right.at + v * right.across + pair * TILE_DEPTH));
  for (int r = 0; r < R; r++) {
    const __m512bh numbers = pair_in_all(left.at + r * left.stride + 2 * pair);
    for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], numbers, columns[v]);
  }
}

// out (R, 16 V) = left right, or out += left right; rows of `out` are `stride` apart. Pairs are taken four at a time: what is
// behind the last one has to be zeros on both sides. `meanwhile(step, steps)` is called after each 16 pairs, and the
// processor does its work in the gaps between products.
template <int R, int V, class Meanwhile>
inline __attribute__((always_inline)) void multiply_block(Left left, Right right, int64_t pairs, float* out, int64_t stride,
                                                          bool adds, const Meanwhile& meanwhile) {
  constexpr int64_t FOUR = 4, OF_TILE = LANES / FOUR;
  const int64_t fours = (pairs + FOUR - 1) / FOUR;
  __m512 sums[R][V];
  for (auto& row : sums) std::fill_n(row, V, all(0.0f));
  int64_t four = 0;
  do {
    for (int64_t pair = 0; pair < FOUR; pair++) multiply_pair(left, right, pair, sums);
    left.at += 2 * FOUR;
    right.at += FOUR * TILE_DEPTH;
    if (++four % OF_TILE == 0) {
      right.at += right.down - PAIRED;
      meanwhile(four / OF_TILE - 1, fours / OF_TILE);
    }
  } while (four < fours);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) {
      float* at = out + r * stride + v * LANES;
      store(at, adds ? add(load(at), sums[r][v]) : sums[r][v]);
    }
}

// The same with nothing to do meanwhile, once for each R and V.
template <int R, int V>
__attribute__((noinline)) void multiply_alone(Left left, Right right, int64_t pairs, float* out, int64_t stride, bool adds) {
  multiply_block<R, V>(left, right, pairs, out, stride, adds, [](int64_t, int64_t) {});
}

// The same for `rows` rows, at most `BLOCK_ROWS`.
template <int V, int R = BLOCK_ROWS>
inline void multiply_some(int64_t rows, Left left, Right right, int64_t pairs, float* out, int64_t stride, bool adds) {
  if (rows == R) return multiply_alone<R, V>(left, right, pairs, out, stride, adds);
  if constexpr (R > 1) multiply_some<V, R - 1>(rows, left, right, pairs, out, stride, adds);
}

// The same for any number of rows, and `vectors` times 16 columns.
inline void multiply(int64_t rows, int64_t vectors, const Left& left, const Right& right, int64_t pairs, float* out,
                     int64_t stride, bool adds) {
  for (int64_t v = 0; v < vectors; v += 2)
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
      const int64_t some = std::min(BLOCK_ROWS, rows - row);
      const Left from{left.at + row * left.stride, left.stride};
      const Right to{right.at + v * right.across, right.across, right.down};
      float* answers = out + row * stride + v * LANES;
      if (v + 1 == vectors)
        multiply_some<1>(some, from, to, pairs, answers, stride, adds);
      else if (some == BLOCK_ROWS)
        multiply_block<BLOCK_ROWS, 2>(from, to, pairs, answers, stride, adds, [](int64_t, int64_t) {});
      else
        multiply_some<2>(some, from, to, pairs, answers, stride, adds);
    }
}

// Brings the numbers `from` to `to` into the second cache.
inline void fetch(const bf16* at, int64_t from, int64_t to) {
  constexpr int64_t LINE = 32;  // numbers
  for (int64_t i = from / LINE * LINE; i < to; i += LINE) _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T1);
}

// Rows of 32 products each that are not finished yet.
struct Block {
  const float* products = nullptr;
  int64_t row = 0, column = 0, rows = 0;
};

template <class Finish>
inline void finish_rows(const Block& block, int64_t from, int64_t to, const Finish& finish) {
  for (int64_t i = from; i < std::min(to, block.rows); i++)
    finish(block.row + i, block.column, block.products + i * SIDE);
}

// finish(row, column, products) for each row of 32 answers of left right, both `depth` deep; `right` is tiles, (columns / 16,
// depth / 32, 16, 16, 2). `products` is room for a block of 32 x 32. While one block is multiplied, the one before it is
// finished.
template <class Finish>
inline void product_of(Left left, const bf16* right, int64_t depth, int64_t rows, int64_t columns, float* products,
                       const Finish& finish) {
  const int64_t panel = SIDE * depth;  // numbers of the right side for 32 columns
  Block before;
  int64_t turn = 0;
  for (int64_t column = 0; column < columns; column += SIDE)
    for (int64_t row = 0; row < rows; row += BLOCK_ROWS) {
      const int64_t some = std::min(BLOCK_ROWS, rows - row);
      if (column + SIDE < columns)
        fetch(right + column * depth + panel, panel * row / rows, panel * (row + some) / rows);
      const Left from{left.at + row * left.stride, left.stride};
      const Right to{right + column * depth, LANES * depth, PAIRED};
      float* answers = products + turn * BLOCK_ROWS * SIDE;
      if (some == BLOCK_ROWS) {
        multiply_block<BLOCK_ROWS, 2>(from, to, depth / 2, answers, SIDE, false, [&](int64_t step, int64_t steps) {
          finish_rows(before, step * BLOCK_ROWS / steps, (step + 1) * BLOCK_ROWS / steps, finish);
        });
      } else {
        finish_rows(before, 0, BLOCK_ROWS, finish);
        multiply_some<2>(some, from, to, depth / 2, answers, SIDE, false);
      }
      before = {answers, row, column, some};
      turn = 1 - turn;
    }
  finish_rows(before, 0, BLOCK_ROWS, finish);
}
