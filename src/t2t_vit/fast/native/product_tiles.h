// The product of two sides in bfloat16 on the processor's matrix unit (AMX). While it multiplies one block of 32 x 32
// answers, the vector unit finishes the block before it.
#pragma once

#include <algorithm>

#include "tiles.h"
#include "vectors.h"

constexpr int64_t SIDE = 32;          // of a block of answers: two tiles
constexpr int64_t CHUNK = 128;        // rows for which each part of the weights is read once
constexpr int64_t BLOCK_ROWS = SIDE;  // rows that are multiplied together
constexpr int64_t LEFT_ROWS = SIDE;   // the left side holds whole blocks of so many rows

// Lines of one side as tiles, 16 lines in a row of them: rows of numbers on the left, pairs of numbers on the right.
struct Lines {
  const bf16* at;
  int64_t apart;  // from 16 lines to the next 16, in numbers
};
using Left = Lines;

// Rows of `width` numbers, laid out as `left_place` says.
inline Left left_of(const bf16* at, int64_t width) { return {at, TILE_ROWS * width}; }

inline int64_t left_place(int64_t row, int64_t column, int64_t width) {
  return row / TILE_ROWS * TILE_ROWS * width + column / TILE_DEPTH * PAIRED + row % TILE_ROWS * TILE_DEPTH +
         column % TILE_DEPTH;
}

// A block of products, in the tiles 0 to 3 until the next one begins: it stores them to `products` first.
struct Block {
  float* products = nullptr;  // (32, 32); null where there is no block
  int64_t row = 0, column = 0, rows = 0;  // of the job
};

inline void store_tile(int tile, const Block& block) {
  constexpr int64_t BYTES = SIDE * sizeof(float);
  if (!block.products) return;
  float* below = block.products + TILE_ROWS * SIDE;
  if (tile == 0) _tile_stored(0, block.products, BYTES);
  if (tile == 1) _tile_stored(1, block.products + LANES, BYTES);
  if (tile == 2) _tile_stored(2, below, BYTES);
  if (tile == 3) _tile_stored(3, below + LANES, BYTES);
}

template <class Finish>
inline void finish_rows(const Block& block, int64_t from, int64_t to, const Finish& finish) {
  for (int64_t i = from; i < std::min(to, block.rows); i++)
    finish(block.row + i, block.column, block.products + i * SIDE);
}

// Tiles 0 to 3 = left right. The block before is stored in the first step and finished between the others.
template <class Finish>
inline void multiply_block(Lines left, Lines right, int64_t steps, const Block& before, const Finish& finish) {
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

// finish(row, column, products) for each row of 32 answers of left right, both `depth` deep; `right` is tiles, (columns / 16,
// depth / 32, 16, 16, 2). `products` is room for a block.
template <class Finish>
inline void product_of(Left left, const bf16* right, int64_t depth, int64_t rows, int64_t columns, float* products,
                       const Finish& finish) {
  const int64_t apart = TILE_ROWS * depth;
  Block before;
  for (int64_t column = 0; column < columns; column += SIDE)
    for (int64_t row = 0; row < rows; row += SIDE) {
      multiply_block({left.at + row / TILE_ROWS * left.apart, left.apart},
                     {right + column / TILE_ROWS * apart, apart}, depth / TILE_DEPTH, before, finish);
      before = {products, row, column, std::min(SIDE, rows - row)};
    }
  for (int tile = 0; tile < 4; tile++) store_tile(tile, before);
  finish_rows(before, 0, SIDE, finish);
}
