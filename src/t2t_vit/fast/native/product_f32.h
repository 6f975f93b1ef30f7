// Products in float32 on the processor's matrix unit, which multiplies bfloat16: each number is the sum of three of
// these (parts.h), and of the nine products of parts the six greatest are summed in float32. What is left out is below
// float32's own rounding.
#pragma once

#include <algorithm>

#include "gelu.h"
#include "parts.h"
#include "product.h"
#include "scratch.h"
#include "tiles.h"

#ifdef TILES
constexpr int64_t SECOND_CACHE = int64_t{1} << 20;  // bytes of it for the left side of a chunk

struct Answer {  // out = activation(product + bias) + residual; bias and residual may be null
  const float* bias;
  Rows<const float> residual;
  Rows<float> out;
  int64_t columns;
  Activation activation;
};

// Some of a block's rows, finished.
inline void finish(const Answer& answer, const Block& block, int64_t from, int64_t to) {
  for (int64_t i = from; i < std::min(to, block.rows); i++)
    for (int64_t half = 0; half < SIDE; half += LANES) {
      const int64_t row = block.row + i, column = block.column + half;
      const __mmask16 live = first(answer.columns - column);
      __m512 values = load(block.products + i * SIDE + half);
      if (answer.bias) values = add(values, load(answer.bias + column, live));
      if (answer.activation == GELU) values = mul(values, normal_below(values));
      if (answer.activation == GELU_TANH) values = gelu_tanh(values);
      if (answer.residual.at) values = add(values, load(answer.residual.row(row) + column, live));
      store(answer.out.row(row) + column, values, live);
    }
}

inline void load_left(const bf16* tiles, int64_t apart, int part) {
  _tile_loadd(4, tiles + part * PAIRED, TILE_BYTES);
  _tile_loadd(5, tiles + apart + part * PAIRED, TILE_BYTES);
}

inline void load_right(const bf16* tiles, int64_t apart, int part) {
  _tile_loadd(6, tiles + part * PAIRED, TILE_BYTES);
  _tile_loadd(7, tiles + apart + part * PAIRED, TILE_BYTES);
}

inline void multiply_loaded() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Tiles 0 to 3 += left right, 32 deep. The second cache's speed decides, so that from one product of parts to the next only
// one of the two sides is loaded.
inline void multiply_parts(const bf16* left, const bf16* right, int64_t apart) {
  load_left(left, apart, 2);
  load_right(right, apart, 0);
  multiply_loaded();
  load_left(left, apart, 1);
  multiply_loaded();
  load_right(right, apart, 1);
  multiply_loaded();
  load_left(left, apart, 0);
  multiply_loaded();
  load_right(right, apart, 2);
  multiply_loaded();
  load_right(right, apart, 0);
  multiply_loaded();
}

inline void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Tiles 0 to 3 = left right, 32 by 32; the block before is finished meanwhile.
inline void multiply(const bf16* left, const bf16* right, int64_t steps, const Answer& answer, const Block& before) {
  const int64_t apart = steps * PARTED;  // from 16 lines to the next 16
  for (int tile = 0; tile < 4; tile++) store_tile(tile, before);
  zero_tiles();
  for (int64_t step = 0; step < steps; step++, left += PARTED, right += PARTED) {
    multiply_parts(left, right, apart);
    finish(answer, before, step * SIDE / steps, (step + 1) * SIDE / steps);
  }
}

inline int64_t steps_of(int64_t depth) { return (depth + TILE_DEPTH - 1) / TILE_DEPTH; }
inline int64_t blocks_of(int64_t lines) { return (lines + SIDE - 1) / SIDE; }

// One thread's room, which it keeps: the left side of a chunk, and a block of products. Memory that was just written is in
// the caches, and new memory is not.
struct LeftRoom {
  int64_t rows;
  bf16* tiles;
  float* products;

  static LeftRoom of(int64_t depth) {
    const int64_t side = SIDE * steps_of(depth) * PARTED / TILE_ROWS;  // numbers of 32 rows
    const int64_t fitting = SECOND_CACHE / static_cast<int64_t>(side * sizeof(bf16));
    const int64_t sides = std::max<int64_t>(1, std::min(CHUNK / SIDE, fitting));
    static thread_local Kept kept;
    Scratch& scratch = kept.of(sides * side * sizeof(bf16) + SIDE * SIDE * sizeof(float));
    return {sides * SIDE, scratch.take<bf16>(sides * side), scratch.take<float>(SIDE * SIDE)};
  }
};

inline void lay_out_left(const Side& left, int64_t row, int64_t end, bf16* tiles) {
  const int64_t group = steps_of(left.depth) * PARTED;  // of 16 lines
  for (int64_t line = row; line < row + blocks_of(end - row) * SIDE; line += TILE_ROWS)
    lay_out_lines(left, line, false, tiles + (line - row) / TILE_ROWS * group);
}

// Rows `row` to `end` of the left side, as many as there is room for, times the blocks of columns `from` to `to`.
inline void multiply_rows(const Side& left, int64_t row, int64_t end, const bf16* right, int64_t from, int64_t to,
                          const Answer& answer, const LeftRoom& room) {
  const int64_t group = steps_of(left.depth) * PARTED;  // of 16 lines
  lay_out_left(left, row, end, room.tiles);
  Block before;
  for (int64_t column = from * SIDE; column < to * SIDE; column += SIDE)
    for (int64_t start = row; start < end; start += SIDE) {
      multiply(room.tiles + (start - row) / TILE_ROWS * group, right + column / LANES * group, steps_of(left.depth),
               answer, before);
      before = {room.products, start, column, std::min(SIDE, end - start)};
    }
  for (int tile = 0; tile < 4; tile++) store_tile(tile, before);
  finish(answer, before, 0, SIDE);
}
#endif
