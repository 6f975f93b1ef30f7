// The gradient of softmax attention in bfloat16 on the processor's matrix unit, a head at a time: its scores are computed
// again from the queries and keys, and its two square matrices stay in the second cache.
//     P = 2^(S - L), dP = dO V^T, dS = P (dP - D), D = sum dO O;  dV = P^T dO, dQ = dS K, dK = dS^T Q
#include <algorithm>
#include <cmath>

#include "heads.h"
#include "scratch.h"
#include "tiles.h"
#include "vectors.h"

#ifdef __AMX_BF16__
namespace {

// One head's matrices, as sides of products: `rows` are tiles on the left, `pairs` and `turned` on the right.
struct Head {
  bf16 *query_rows, *slope_rows;                // (padded, d) with zeros behind the tokens
  bf16 *keys_turned, *values_turned;            // tiles of 32 numbers by 16 tokens
  bf16 *query_pairs, *key_pairs, *slope_pairs;  // tiles of 32 tokens by 16 numbers
  bf16 *weights, *changes;                      // P and dS: (padded, padded)
  bf16 *weights_turned, *changes_turned;        // their transposes, in tiles of 16 by 32
  float *scores, *slopes, *sums;                // 16 rows of S and of dP; 16 rows of an answer
  static size_t bytes(const Shape& s) {
    return s.padded() * s.head_dim * 7 * sizeof(bf16) + s.padded() * s.padded() * 4 * sizeof(bf16) +
           TILE_ROWS * (2 * s.padded() + s.head_dim) * sizeof(float);
  }
  Head(Scratch& scratch, const Shape& s) {
    for (bf16** part : {&query_rows, &slope_rows, &keys_turned, &values_turned, &query_pairs, &key_pairs, &slope_pairs})
      *part = scratch.take<bf16>(s.padded() * s.head_dim);
    for (bf16** part : {&weights, &changes, &weights_turned, &changes_turned})
      *part = scratch.take<bf16>(s.padded() * s.padded());
    scores = scratch.take<float>(TILE_ROWS * s.padded());
    slopes = scratch.take<float>(TILE_ROWS * s.padded());
    sums = scratch.take<float>(TILE_ROWS * s.head_dim);
  }
};

void copy_rows(const bf16* from, int64_t stride, const Shape& shape, bf16* to) {
  for (int64_t n = 0; n < shape.tokens; n++) std::copy_n(from + n * stride, shape.head_dim, to + n * shape.head_dim);
  std::fill(to + shape.tokens * shape.head_dim, to + shape.padded() * shape.head_dim, bf16{0});
}

void pair(const bf16* from, int64_t stride, const Shape& shape, bf16* to) {
  for (int64_t d = 0; d < shape.head_dim; d += LANES)
    for (int64_t n = 0; n < shape.padded(); n += TILE_DEPTH, to += PAIRED)
      pair_rows(from + n * stride + d, stride, shape.tokens - n, to);
}

// A square matrix's transpose as tiles on the left: 16 of its columns by 32 of its rows.
void turn_square(const bf16* from, int64_t side, bf16* to) {
  alignas(64) bf16 paired[PAIRED];
  for (int64_t column = 0; column < side; column += TILE_ROWS)
    for (int64_t row = 0; row < side; row += TILE_DEPTH, to += PAIRED) {
      pair_rows(from + row * side + column, side, TILE_DEPTH, paired);
      transpose_words(reinterpret_cast<const int32_t*>(paired), TILE_ROWS, TILE_ROWS, reinterpret_cast<int32_t*>(to));
    }
}

// to (16, 16 tiles) = left right: `left_step` numbers from one tile of the left to the next, and `left_bytes` between
// its rows; `right` holds `steps` tiles for each 16 columns.
void multiply(const bf16* left, int64_t left_step, int64_t left_bytes, const bf16* right, int64_t steps, int64_t tiles,
              float* to, int64_t stride) {
  const int64_t bytes = stride * static_cast<int64_t>(sizeof(float));
  for (int64_t tile = 0; tile < tiles; tile += 2, right += 2 * steps * PAIRED) {
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t step = 0; step < steps; step++) {
      _tile_loadd(2, left + step * left_step, left_bytes);
      _tile_loadd(3, right + step * PAIRED, TILE_BYTES);
      _tile_dpbf16ps(0, 2, 3);
      _tile_loadd(4, right + (steps + step) * PAIRED, TILE_BYTES);
      _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, to + tile * LANES, bytes);
    _tile_stored(1, to + (tile + 1) * LANES, bytes);
  }
}

// A row of P and of dS, zeros behind the live keys.
void row_of(const Head& head, int64_t row, int64_t number, const Shape& shape, float factor, float log_sum, float inner) {
  const int64_t padded = shape.padded();
  const float *scores = head.scores + row * padded, *slopes = head.slopes + row * padded;
  bf16 *weights = head.weights + number * padded, *changes = head.changes + number * padded;
  const __m512 times = all(factor), minus = all(-log_sum), less = all(inner);
  for (int64_t i = 0; i < padded; i += LANES) {
    const __m512 weight = _mm512_maskz_mov_ps(first(shape.tokens - i), exp2_of(fma(load(scores + i), times, minus)));
    store(weights + i, weight);
    store(changes + i, mul(weight, sub(load(slopes + i), less)));
  }
}

void write(const float* sums, float scale, int64_t rows, int64_t head_dim, bf16* to, int64_t stride) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t d = 0; d < head_dim; d += LANES)
      store(to + row * stride + d, mul(load(sums + row * head_dim + d), all(scale)));
}

struct Given {  // one head's: in qkv and its gradient rows are `stride` apart, in the answer and its slope `dim`
  const bf16 *queries, *answer, *slope;
  const float* log_sums;
  bf16* to;
  int64_t stride;
};

void of_head(const Head& head, const Given& given, const Shape& shape, float scale) {
  const int64_t d = shape.head_dim, dim = shape.dim(), padded = shape.padded(), stride = given.stride;
  const bf16 *keys = given.queries + dim, *values = keys + dim;
  const int64_t deep = d / TILE_DEPTH, across = d / LANES, long_steps = padded / TILE_DEPTH;
  copy_rows(given.queries, stride, shape, head.query_rows);
  copy_rows(given.slope, dim, shape, head.slope_rows);
  turn_tokens(keys, stride, shape, head.keys_turned);
  turn_tokens(values, stride, shape, head.values_turned);
  pair(given.queries, stride, shape, head.query_pairs);
  pair(keys, stride, shape, head.key_pairs);
  pair(given.slope, dim, shape, head.slope_pairs);
  const int64_t bytes = d * static_cast<int64_t>(sizeof(bf16)), long_bytes = padded * static_cast<int64_t>(sizeof(bf16));
  for (int64_t block = 0; block < padded; block += TILE_ROWS) {
    const int64_t rows = std::min<int64_t>(TILE_ROWS, shape.tokens - block);
    multiply(head.query_rows + block * d, TILE_DEPTH, bytes, head.keys_turned, deep, padded / LANES, head.scores, padded);
    multiply(head.slope_rows + block * d, TILE_DEPTH, bytes, head.values_turned, deep, padded / LANES, head.slopes, padded);
    for (int64_t row = 0; row < TILE_ROWS; row++) {
      const int64_t number = block + row;
      if (row >= rows) {
        std::fill_n(head.weights + number * padded, padded, bf16{0});
        std::fill_n(head.changes + number * padded, padded, bf16{0});
        continue;
      }
      __m512 inner = all(0.0f);
      for (int64_t i = 0; i < d; i += LANES)
        inner = fma(load(given.slope + number * dim + i), load(given.answer + number * dim + i), inner);
      row_of(head, row, number, shape, scale * LOG2_E, given.log_sums[number], sum(inner));
    }
    multiply(head.changes + block * padded, TILE_DEPTH, long_bytes, head.key_pairs, long_steps, across, head.sums, d);
    write(head.sums, scale, rows, d, given.to + block * stride, stride);
  }
  turn_square(head.weights, padded, head.weights_turned);
  turn_square(head.changes, padded, head.changes_turned);
  for (int64_t block = 0; block < shape.tokens; block += TILE_ROWS) {
    const int64_t rows = std::min<int64_t>(TILE_ROWS, shape.tokens - block), at = block * padded;
    multiply(head.changes_turned + at, PAIRED, TILE_BYTES, head.query_pairs, long_steps, across, head.sums, d);
    write(head.sums, scale, rows, d, given.to + dim + block * stride, stride);
    multiply(head.weights_turned + at, PAIRED, TILE_BYTES, head.slope_pairs, long_steps, across, head.sums, d);
    write(head.sums, 1.0f, rows, d, given.to + 2 * dim + block * stride, stride);
  }
}

}  // namespace

// What `attention_bf16` took and gave, and the slope of its answer -> the gradient of qkv, in qkv's layout.
extern "C" void attention_backward_bf16(const bf16* qkv, const bf16* answer, const float* log_sums, const bf16* slope,
                                        bf16* gradient, const int64_t* sizes, float scale, int threads) {
  const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  const int64_t stride = 3 * shape.dim();
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles;
    const NoDenormals no_denormals;
    Scratch scratch(Head::bytes(shape));
    const Head head(scratch, shape);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < shape.batch * shape.heads; task++) {
      const int64_t image = task / shape.heads * shape.tokens, at = task % shape.heads * shape.head_dim;
      const Given given{qkv + image * stride + at,         answer + image * shape.dim() + at,
                        slope + image * shape.dim() + at,  log_sums + task * shape.tokens,
                        gradient + image * stride + at,    stride};
      of_head(head, given, shape, scale);
    }
  }
}
#endif
