// Products with a linear layer's weights on the processor's matrix unit in bfloat16, and what stands before and behind
// them: LayerNorm, bias, GELU, a residual. While the matrix unit multiplies one block of 32 x 32 answers, the vector
// unit finishes the block before it.
#pragma once

#include <algorithm>
#include <cmath>

#include "tiles.h"
#include "vectors.h"

#ifdef __AMX_BF16__
constexpr int64_t SIDE = 32;    // of a block of answers: two tiles
constexpr int64_t CHUNK = 128;  // rows for which each part of the weights is read once

enum Activation : int64_t { NONE, GELU, GELU_TANH };

struct Norm {  // none where there is no weight
  const bf16 *weight, *bias;
  float eps;
};

struct Layer {
  const bf16* weights;  // tiles of 32 inputs by 16 outputs: (width / 16, in / 32, 16, 16, 2)
  const float* bias;    // (width)
  int64_t in, width;    // multiples of 32
  Activation activation;
};

template <class T>
struct Rows {
  T* at;
  int64_t stride;  // from row to row, in numbers
  T* row(int64_t number) const { return at + number * stride; }
};

// What becomes of one chunk: out = activation(W inputs + b) + residual, the latter if there is one.
struct Job {
  const Layer& layer;
  const bf16* inputs;  // tiles of 16 rows by 32 numbers: (rows / 16, in / 32, 16, 32), rows rounded up to 32
  Rows<bf16> out;
  Rows<const bf16> residual;
  int64_t rows;
  bool out_is_tiles;  // of the next job's inputs: `out.stride` is from 16 rows to the next 16

  // 32 numbers of a row of the answer.
  bf16* place(int64_t row, int64_t column) const {
    if (!out_is_tiles) return out.row(row) + column;
    return out.row(row / TILE_ROWS) + column / TILE_DEPTH * PAIRED + row % TILE_ROWS * TILE_DEPTH;
  }
};

// x Phi(x), Phi(x) = 1/2 + x P(x^2) by a polynomial fitted on [-4.5, 4.5]: the answer errs by 5e-5 at most, which
// bfloat16 does not see.
inline __m512 gelu(__m512 x) {
  constexpr float P[] = {1.69720316e-10f, -9.19332149e-09f, 2.95879829e-07f, -6.36511433e-06f, 9.78701293e-05f,
                         -1.12267201e-03f, 9.83316558e-03f, -6.63370279e-02f, 3.98883780e-01f};
  const __m512 near = _mm512_min_ps(greater(x, all(-4.5f)), all(4.5f)), square = mul(near, near);
  __m512 value = all(-1.39996689e-12f);
  for (const float coefficient : P) value = fma(value, square, all(coefficient));
  return mul(x, fma(near, value, all(0.5f)));
}

// x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
inline __m512 gelu_tanh(__m512 x) {
  const __m512 inner = mul(x, fma(mul(x, x), all(0.044715f), all(1.0f)));
  const __m512 power = exp2_of(mul(_mm512_abs_ps(inner), all(-2.0f * 0.79788456f * LOG2_E)));  // at most 1
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
  return _mm512_div_ps(mul(x, _mm512_mask_mov_ps(all(1.0f), negative, power)), add(all(1.0f), power));
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

// Bias, activation and residual of 16 products.
inline __m512 finished(const Job& job, const float* products, int64_t row, int64_t column) {
  __m512 values = add(load(products), load(job.layer.bias + column));
  if (job.layer.activation == GELU) values = gelu(values);
  if (job.layer.activation == GELU_TANH) values = gelu_tanh(values);
  return job.residual.at ? add(values, load(job.residual.row(row) + column)) : values;
}

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

inline void run(const Job& job, float* products) {
  const int64_t steps = job.layer.in / TILE_DEPTH, apart = steps * PAIRED;  // from 16 rows, or columns, to the next 16
  product_of({job.inputs, apart}, {job.layer.weights, apart}, steps, job.rows, job.layer.width, products,
             [&](int64_t row, int64_t column, const float* answers) {  // one line of the cache, written at once
               const __m512 low = finished(job, answers, row, column);
               const __m512 high = finished(job, answers + LANES, row, column + LANES);
               _mm512_storeu_si512(job.place(row, column), reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
             });
}

// A row of a chunk, behind the norm if there is one, to its place in tiles.
inline void lay_out_row(const Norm& norm, const bf16* from, bf16* to, int64_t width) {
  __m512 mean = all(0.0f), scale = all(1.0f);
  if (norm.weight) {
    __m512 total = all(0.0f), squares = all(0.0f);
    for (int64_t i = 0; i < width; i += LANES) total = add(total, load(from + i));
    mean = all(sum(total) / width);
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 centred = sub(load(from + i), mean);
      squares = fma(centred, centred, squares);
    }
    scale = all(1.0f / std::sqrt(sum(squares) / width + norm.eps));
  }
  for (int64_t i = 0; i < width; i += LANES) {
    __m512 values = load(from + i);
    if (norm.weight) values = fma(mul(sub(values, mean), scale), load(norm.weight + i), load(norm.bias + i));
    store(to + i / TILE_DEPTH * PAIRED + i % TILE_DEPTH, values);
  }
}

// A chunk's inputs as tiles, with rows of zeros up to a whole block.
inline void lay_out(const Norm& norm, Rows<const bf16> inputs, int64_t rows, int64_t width, bf16* tiles) {
  const int64_t whole = (rows + SIDE - 1) / SIDE * SIDE;
  if (rows < whole) std::fill_n(tiles + (whole - SIDE) * width, SIDE * width, bf16{0});
  for (int64_t row = 0; row < rows; row++)
    lay_out_row(norm, inputs.row(row), tiles + row / TILE_ROWS * TILE_ROWS * width + row % TILE_ROWS * TILE_DEPTH, width);
}
#endif
