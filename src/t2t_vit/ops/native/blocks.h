// What stands around a product of tiles (product.h) in training: lines laid out, memory that is needed or written soon.
#pragma once

#include <algorithm>

#include "product.h"
#include "tiles.h"
#include "vectors.h"

#ifdef __AMX_BF16__
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
