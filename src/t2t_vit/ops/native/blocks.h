// A product of tiles on the processor's matrix unit in bfloat16, in blocks of 32 x 32 answers, each row of which is
// finished by the caller while the matrix unit multiplies the next block.
#pragma once

#include <algorithm>

#include "product.h"
#include "tiles.h"
#include "vectors.h"

#ifdef __AMX_BF16__
// Lines of a product's one side as tiles, 16 lines in a row of them: lines on the left, pairs of numbers on the right.
struct Side16 {
  const bf16* at;
  int64_t apart;  // from 16 lines to the next 16, in numbers
};

template <class Finish>
inline void finish_rows(const Block& block, int64_t from, int64_t to, const Finish& finish) {
  for (int64_t i = from; i < std::min(to, block.rows); i++)
    finish(block.row + i, block.column, block.products + i * SIDE);
}

// Tiles 0 to 3 = left right. The block before is stored in the first step and finished between the others.
template <class Finish>
inline void multiply_block(Side16 left, Side16 right, int64_t steps, const Block& before, const Finish& finish) {
  for (int64_t step = 0; step < steps; step++, left.at += PAIRED, right.at += PAIRED) {
    _tile_loadd(4, left.at, TILE_BYTES);
    _tile_loadd(6, right.at, TILE_BYTES);
    if (step == 0) {
      store_tile(0, before);
      _tile_zero(0);
    }
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right.at + right.apart, TILE_BYTES);
    if (step == 0) {
      store_tile(1, before);
      _tile_zero(1);
    }
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left.at + left.apart, TILE_BYTES);
    if (step == 0) {
      store_tile(2, before);
      _tile_zero(2);
    }
    _tile_dpbf16ps(2, 5, 6);
    if (step == 0) {
      store_tile(3, before);
      _tile_zero(3);
    }
    _tile_dpbf16ps(3, 5, 7);
    finish_rows(before, step * SIDE / steps, (step + 1) * SIDE / steps, finish);
  }
}

// finish(row, column, products) for each row of 32 answers. Both sides hold whole blocks of 32 lines; of the left ones
// `rows` are finished. `products` is room for a block.
template <class Finish>
inline void product_of(Side16 left, Side16 right, int64_t steps, int64_t rows, int64_t columns, float* products,
                       const Finish& finish) {
  Block before;
  for (int64_t column = 0; column < columns; column += SIDE)
    for (int64_t row = 0; row < rows; row += SIDE) {
      multiply_block({left.at + row / TILE_ROWS * left.apart, left.apart},
                     {right.at + column / TILE_ROWS * right.apart, right.apart}, steps, before, finish);
      before = {products, row, column, std::min(SIDE, rows - row)};
    }
  for (int tile = 0; tile < 4; tile++) store_tile(tile, before);
  finish_rows(before, 0, SIDE, finish);
}

// Memory that is needed soon: a line of the cache at each `next`, of `runs` parts that are `apart` numbers from each other.
// What finishes blocks walks over memory in steps that the processor does not foresee.
template <class T>
class Ahead {
 public:
  Ahead(const T* at, int64_t numbers, int64_t runs = 1, int64_t apart = 0)
      : at_(at), numbers_(numbers), runs_(runs), apart_(apart) {}
  void next(int lines = 1) {
    for (; lines > 0 && runs_ > 0; lines--) {
      _mm_prefetch(at_ + done_, _MM_HINT_T1);
      done_ += 64 / static_cast<int64_t>(sizeof(T));
      if (done_ < numbers_) continue;
      done_ = 0;
      at_ += apart_;
      runs_--;
    }
  }

 private:
  const T* at_;
  int64_t numbers_, runs_, apart_, done_ = 0;
};

// Memory that is written soon.
inline void claim(const void* at) { __builtin_prefetch(at, 1, 2); }

// A line of an answer that is longer than the caches, past them: else it would be read before it is written. `to` stands at
// a multiple of 64 bytes.
inline void write_past(bf16* to, __m512i line) { _mm512_stream_si512(reinterpret_cast<__m512i*>(to), line); }

inline __m512i narrow(__m512 low, __m512 high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

// A place of a left side's tiles: `line` of them, the number `deep` of it.
inline int64_t place_of(int64_t line, int64_t deep, int64_t apart) {
  return line / TILE_ROWS * apart + deep / TILE_DEPTH * PAIRED + line % TILE_ROWS * TILE_DEPTH + deep % TILE_DEPTH;
}

// A row of bfloat16 numbers to its place in a left side's tiles.
inline void lay_row(const bf16* from, int64_t width, int64_t line, int64_t apart, bf16* tiles) {
  for (int64_t i = 0; i < width; i += TILE_DEPTH)
    _mm512_store_si512(tiles + place_of(line, i, apart), _mm512_loadu_si512(from + i));
}

// Zeros behind `rows` lines of a left side, up to a whole block.
inline void lay_zeros(int64_t rows, int64_t width, int64_t apart, bf16* tiles) {
  for (int64_t line = rows; line % SIDE != 0; line++)
    for (int64_t i = 0; i < width; i += TILE_DEPTH)
      _mm512_store_si512(tiles + place_of(line, i, apart), _mm512_setzero_si512());
}

// `rows` rows of bfloat16 as steps of a right side whose lines are the columns.
inline void pair_columns(const bf16* from, int64_t width, int64_t rows, int64_t apart, bf16* tiles) {
  for (int64_t i = 0; i < width; i += LANES)
    for (int64_t row = 0; row < rows; row += TILE_DEPTH)
      pair_rows(from + row * width + i, width, rows - row, tiles + i / LANES * apart + row * TILE_ROWS);
}

// The same as steps of a left side whose lines are the columns.
inline void turn_columns(const bf16* from, int64_t width, int64_t rows, int64_t apart, bf16* tiles) {
  alignas(64) bf16 paired[PAIRED];
  for (int64_t i = 0; i < width; i += LANES)
    for (int64_t row = 0; row < rows; row += TILE_DEPTH) {
      pair_rows(from + row * width + i, width, rows - row, paired);
      transpose_words(reinterpret_cast<const int32_t*>(paired), TILE_ROWS, TILE_ROWS,
                      reinterpret_cast<int32_t*>(tiles + i / LANES * apart + row * TILE_ROWS));
    }
}

// A weight (out, in) in float32 as the right side of W x: its lines are outputs. Shared by the threads of a region.
inline void turn_weight(const float* weight, int64_t out, int64_t in, bf16* tiles) {
#pragma omp for schedule(static)
  for (int64_t line = 0; line < out; line += TILE_ROWS) {
    bf16* to = tiles + line * in;
    for (int64_t row = 0; row < TILE_ROWS; row++)  // in memory's order
      for (int64_t i = 0; i < in; i += TILE_DEPTH) {
        const float* from = weight + (line + row) * in + i;
        _mm512_store_si512(to + place_of(row, i, 0), narrow(load(from), load(from + LANES)));
      }
    for (int64_t i = 0; i < in; i += TILE_DEPTH, to += PAIRED) {
      int32_t* tile = reinterpret_cast<int32_t*>(to);
      transpose_words(tile, TILE_ROWS, TILE_ROWS, tile);
    }
  }
}

// The same as the right side of W^T y: its lines are inputs.
inline void pair_weight(const float* weight, int64_t out, int64_t in, bf16* tiles) {
  alignas(64) static constexpr uint16_t ALTERNATING[TILE_DEPTH] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                                   21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                                   11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(ALTERNATING);
#pragma omp for schedule(static)
  for (int64_t deep = 0; deep < out; deep += TILE_DEPTH)
    for (int64_t row = deep; row < deep + TILE_DEPTH; row += 2)
      for (int64_t i = 0; i < in; i += LANES) {
        const float* from = weight + row * in + i;
        const __m512i both = narrow(load(from), load(from + in));
        _mm512_store_si512(tiles + i * out + row * LANES, _mm512_permutexvar_epi16(order, both));
      }
}
#endif
