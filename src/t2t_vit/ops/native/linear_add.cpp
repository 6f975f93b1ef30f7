// An activation, a linear layer and a residual for training: bfloat16 inputs on top of float32 tokens, on the processor's
// matrix unit, and the gradient of all of it, for which the activation is computed again.
#include <algorithm>
#include <cmath>

#include "blocks.h"
#include "gelu.h"
#include "scratch.h"
#include "weight_gradient.h"

#ifdef __AMX_BF16__
namespace {

struct LinearAdd {
  const float *weight, *bias;
  const float* shares;  // of each image's answer in the sum; null: all of it
  int64_t rows, in, out, per_image;
  Activation activation;
  int64_t rows_from(int64_t start) const { return std::clamp<int64_t>(rows - start, 0, CHUNK); }  // of a chunk
  int64_t chunks() const { return (rows + CHUNK - 1) / CHUNK; }
  int64_t steps() const { return (rows + TILE_DEPTH - 1) / TILE_DEPTH; }
  __m512 share(int64_t row) const { return all(shares ? shares[row / per_image] : 1.0f); }
};

struct Activated {
  __m512 value, slope;
};

// x Phi(x) and Phi(x) + x phi(x), phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
inline Activated through_gelu(__m512 x) {
  const Normal normal = normal_of(x);
  return {mul(x, normal.below), fma(x, mul(normal.power, all(0.39894228f)), normal.below)};
}

// x s and s + x s (1 - s) u', s = sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
inline Activated through_gelu_tanh(__m512 x) {
  constexpr float TWICE = 2.0f * 0.79788456f, CUBIC = 0.044715f;
  const __m512 square = mul(x, x), u = mul(mul(x, all(TWICE)), fma(square, all(CUBIC), all(1.0f)));
  const __m512 power = exp2_of(mul(_mm512_abs_ps(u), all(-LOG2_E)));  // at most 1
  const __m512 above = _mm512_div_ps(all(1.0f), add(all(1.0f), power)), below = mul(power, above);
  const __m512 share = _mm512_mask_mov_ps(above, _mm512_movepi32_mask(_mm512_castps_si512(x)), below);
  // Where the power is 0, x^3 may be beyond float32.
  const __mmask16 bends = _mm512_cmp_ps_mask(power, all(0.0f), _CMP_NEQ_UQ);
  const __m512 slope = mul(x, mul(all(TWICE), fma(square, all(3.0f * CUBIC), all(1.0f))));
  return {mul(x, share), _mm512_mask3_fmadd_ps(mul(above, below), slope, share, bends)};
}

inline Activated through(Activation activation, __m512 x) {
  return activation == GELU ? through_gelu(x) : activation == GELU_TANH ? through_gelu_tanh(x) : Activated{x, all(1.0f)};
}

void sums(const LinearAdd& layer, const bf16* inputs, const float* residual, float* out, const bf16* weights, int64_t start,
          Scratch& scratch) {
  const int64_t rows = std::min(CHUNK, layer.rows - start), in = layer.in, apart = in * TILE_ROWS;
  bf16* tiles = scratch.take<bf16>(CHUNK * in);
  float* products = scratch.take<float>(SIDE * SIDE);
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < in; i += TILE_DEPTH) {
      const bf16* from = inputs + (start + row) * in + i;
      const Activated low = through(layer.activation, load(from)), high = through(layer.activation, load(from + LANES));
      _mm512_store_si512(tiles + place_of(row, i, apart), narrow(low.value, high.value));
    }
  lay_zeros(rows, in, apart, tiles);
  Ahead<bf16> ahead(inputs + (start + CHUNK) * in, layer.rows_from(start + CHUNK) * in);
  product_of({tiles, apart}, {weights, apart}, in / TILE_DEPTH, rows, layer.out, products,
             [&](int64_t row, int64_t column, const float* answers) {
               const int64_t at = (start + row) * layer.out + column, next = at + CHUNK * layer.out;
               ahead.next(3);
               _mm_prefetch(residual + next, _MM_HINT_T1);
               _mm_prefetch(residual + next + LANES, _MM_HINT_T1);
               claim(out + next);
               claim(out + next + LANES);
               const __m512 share = layer.share(start + row);
               for (int64_t i = 0; i < SIDE; i += LANES) {
                 const __m512 answer = add(load(answers + i), load(layer.bias + column + i));
                 store(out + at + i, fma(answer, share, load(residual + at + i)));
               }
             });
}

// The inputs' gradient of one chunk, and its part in the sides of the weight's.
void slopes(const LinearAdd& layer, const float* slope, const bf16* inputs, const bf16* weights, bf16* to, float* biases,
            const WeightGradient& sides, int64_t start, Scratch& scratch) {
  const int64_t rows = std::min(CHUNK, layer.rows - start), in = layer.in, out = layer.out, apart = out * TILE_ROWS;
  bf16 *tiles = scratch.take<bf16>(CHUNK * out), *lines = scratch.take<bf16>(CHUNK * out);
  bf16* middle = scratch.take<bf16>(CHUNK * in);
  float *products = scratch.take<float>(SIDE * SIDE), *bias = biases + start / CHUNK * out;
  std::fill_n(bias, out, 0.0f);
  slope += start * out;
  inputs += start * in;
  to += start * in;
  for (int64_t row = 0; row < rows; row++) {
    const __m512 share = layer.share(start + row);
    for (int64_t i = 0; i < out; i += TILE_DEPTH) {
      const float* from = slope + row * out + i;
      _mm512_store_si512(lines + row * out + i, narrow(mul(load(from), share), mul(load(from + LANES), share)));
    }
    lay_row(lines + row * out, out, row, apart, tiles);
    add_row(bias, lines + row * out, out);
  }
  lay_zeros(rows, out, apart, tiles);
  Ahead<float> ahead(slope + CHUNK * out, layer.rows_from(start + CHUNK) * out);
  product_of({tiles, apart}, {weights, apart}, out / TILE_DEPTH, rows, in, products,
             [&](int64_t row, int64_t column, const float* answers) {
               const int64_t at = row * in + column;
               ahead.next(2);
               _mm_prefetch(inputs + at + CHUNK * in, _MM_HINT_T1);
               const Activated low = through(layer.activation, load(inputs + at));
               const Activated high = through(layer.activation, load(inputs + at + LANES));
               const __m512 change = mul(load(answers), low.slope), next = mul(load(answers + LANES), high.slope);
               write_past(to + at, narrow(change, next));
               _mm512_store_si512(middle + at, narrow(low.value, high.value));
             });
  pair_columns(middle, in, rows, sides.apart(), sides.inputs + start * TILE_ROWS);
  turn_columns(lines, out, rows, sides.apart(), sides.slopes + start * TILE_ROWS);
}

size_t room(const LinearAdd& layer) {
  return CHUNK * (layer.in + 2 * layer.out) * sizeof(bf16) + SIDE * SIDE * sizeof(float);
}

LinearAdd layer_of(const float* weight, const float* bias, const float* shares, const int64_t* sizes) {
  return {weight, bias, shares, sizes[0], sizes[1], sizes[2], sizes[3], static_cast<Activation>(sizes[4])};
}

}  // namespace

// out = residual + shares (weight activation(inputs) + bias); sizes: rows, in, out, rows of an image, activation.
extern "C" void linear_add(const bf16* inputs, const float* residual, const float* weight, const float* bias,
                           const float* shares, float* out, const int64_t* sizes, int threads) {
  const LinearAdd layer = layer_of(weight, bias, shares, sizes);
  bf16* tiles = shared_scratch(layer.in * layer.out * sizeof(bf16)).take<bf16>(layer.in * layer.out);
#pragma omp parallel num_threads(threads)
  {
    const Tiles unit;
    const NoDenormals no_denormals;
    turn_weight(weight, layer.out, layer.in, tiles);
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < layer.chunks(); chunk++)
      sums(layer, inputs, residual, out, tiles, chunk * CHUNK, own_scratch(room(layer)));
  }
}

// What `linear_add` took, and the slope of its answer, which is also the residual's -> the gradients of inputs, weight and
// bias.
extern "C" void linear_add_backward(const float* slope, const bf16* inputs, const float* weight, const float* shares,
                                    bf16* input_gradient, float* weight_gradient, float* bias_gradient,
                                    const int64_t* sizes, int threads) {
  const LinearAdd layer = layer_of(weight, nullptr, shares, sizes);
  const int64_t in = layer.in, out = layer.out, chunks = layer.chunks(), deep = layer.steps() * TILE_DEPTH;
  Scratch& shared = shared_scratch((in * out + (in + out) * deep) * sizeof(bf16) + chunks * out * sizeof(float));
  bf16* tiles = shared.take<bf16>(in * out);
  bf16 *left = shared.take<bf16>(out * deep), *right = shared.take<bf16>(in * deep);
  const WeightGradient sides{left, right, layer.steps(), out, in, weight_gradient};
  float* biases = shared.take<float>(chunks * out);
#pragma omp parallel num_threads(threads)
  {
    const Tiles unit;
    const NoDenormals no_denormals;
    pair_weight(weight, out, in, tiles);
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; chunk++)
      slopes(layer, slope, inputs, tiles, input_gradient, biases, sides, chunk * CHUNK, own_scratch(room(layer)));
    write_gradient(sides, own_scratch(room(layer)).take<float>(SIDE * SIDE));
  }
  add_up_rows(biases, chunks, out, bias_gradient);
}
#endif
