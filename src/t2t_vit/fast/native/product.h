// Products with a linear layer's weights in bfloat16, and what stands before and behind them: LayerNorm, bias, GELU, a
// residual.
#pragma once

#include <algorithm>
#include <cmath>

#include "tiles.h"
#include "vectors.h"
#ifdef TILES
#include "product_tiles.h"
#else
#include "product_vectors.h"
#endif

static_assert(CHUNK % BLOCK_ROWS == 0, "chunks begin where blocks of rows do");

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
  Left inputs;
  Rows<bf16> out;
  Rows<const bf16> residual;
  int64_t rows;
  bool out_is_left;  // `out.at` becomes the left side of the next job

  // 32 numbers of a row of the answer.
  bf16* place(int64_t row, int64_t column) const {
    return out_is_left ? out.at + left_place(row, column, layer.width) : out.row(row) + column;
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

// Bias, activation and residual of 16 products.
inline __m512 finished(const Job& job, const float* products, int64_t row, int64_t column) {
  __m512 values = add(load(products), load(job.layer.bias + column));
  if (job.layer.activation == GELU) values = gelu(values);
  if (job.layer.activation == GELU_TANH) values = gelu_tanh(values);
  return job.residual.at ? add(values, load(job.residual.row(row) + column)) : values;
}

inline void run(const Job& job, float* products) {
  product_of(job.inputs, job.layer.weights, job.layer.in, job.rows, job.layer.width, products,
             [&](int64_t row, int64_t column, const float* answers) {  // one line of the cache, written at once
               const __m512 low = finished(job, answers, row, column);
               const __m512 high = finished(job, answers + LANES, row, column + LANES);
               _mm512_storeu_si512(job.place(row, column), reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
             });
}

// A row of a chunk, behind the norm if there is one, to `to` and the places that belong to it.
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
    store(to + left_place(0, i, width), values);
  }
}

// A chunk's inputs as a left side in `room`, with rows of zeros up to a whole block of rows.
inline Left lay_out(const Norm& norm, Rows<const bf16> inputs, int64_t rows, int64_t width, bf16* room) {
  const int64_t whole = (rows + LEFT_ROWS - 1) / LEFT_ROWS * LEFT_ROWS;
  if (rows < whole) std::fill_n(room + (whole - LEFT_ROWS) * width, LEFT_ROWS * width, bf16{0});
  for (int64_t row = 0; row < rows; row++)
    lay_out_row(norm, inputs.row(row), room + left_place(row, 0, width), width);
  return left_of(room, width);
}
