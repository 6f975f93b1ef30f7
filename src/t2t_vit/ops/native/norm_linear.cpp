// LayerNorm and a linear layer for training: float32 tokens to bfloat16 answers, on the processor's matrix unit, and the
// gradient of all of it, for which only a mean and a deviation of each token are kept.
#include <algorithm>
#include <cmath>

#include "blocks.h"
#include "scratch.h"
#include "weight_gradient.h"

#ifdef __AMX_BF16__
namespace {

struct NormLinear {
  const float *norm_weight, *norm_bias, *weight, *bias;  // no bias: null
  int64_t rows, in, out;
  float eps;
  int64_t rows_from(int64_t start) const { return std::clamp<int64_t>(rows - start, 0, CHUNK); }  // of a chunk
  int64_t chunks() const { return (rows + CHUNK - 1) / CHUNK; }
  int64_t steps() const { return (rows + TILE_DEPTH - 1) / TILE_DEPTH; }
};

struct Moments {
  float mean, scale;  // 1 / deviation
};

// What is left of the mean after centring is taken off as well: of a flat token it would be all.
Moments moments_of(const float* token, int64_t width, float eps) {
  __m512 total = all(0.0f), left = all(0.0f), squares = all(0.0f);
  for (int64_t i = 0; i < width; i += LANES) total = add(total, load(token + i));
  const float mean = sum(total) / width;
  for (int64_t i = 0; i < width; i += LANES) {
    const __m512 centred = sub(load(token + i), all(mean));
    left = add(left, centred);
    squares = fma(centred, centred, squares);
  }
  const float rest = sum(left) / width, variance = std::max(0.0f, sum(squares) / width - rest * rest);
  return {mean + rest, 1.0f / std::sqrt(variance + eps)};
}

inline __m512 normed(const float* token, Moments of, int64_t i) {
  return mul(sub(load(token + i), all(of.mean)), all(of.scale));
}

inline __m512i affine(const NormLinear& layer, const float* token, Moments of, int64_t i) {
  const auto part = [&](int64_t at) {
    return fma(normed(token, of, at), load(layer.norm_weight + at), load(layer.norm_bias + at));
  };
  return narrow(part(i), part(i + LANES));
}

void answers(const NormLinear& layer, const float* tokens, Moments* moments, bf16* out, const bf16* weights, int64_t start,
             Scratch& scratch) {
  const int64_t rows = std::min(CHUNK, layer.rows - start), in = layer.in, apart = in * TILE_ROWS;
  bf16* tiles = scratch.take<bf16>(CHUNK * in);
  float* products = scratch.take<float>(SIDE * SIDE);
  for (int64_t row = 0; row < rows; row++) {
    const float* token = tokens + (start + row) * in;
    const Moments of = moments[start + row] = moments_of(token, in, layer.eps);
    for (int64_t i = 0; i < in; i += TILE_DEPTH)
      _mm512_store_si512(tiles + place_of(row, i, apart), affine(layer, token, of, i));
  }
  lay_zeros(rows, in, apart, tiles);
  Ahead<float> ahead(tokens + (start + CHUNK) * in, (layer.rows_from(start + CHUNK)) * in);
  product_of({tiles, apart}, {weights, apart}, in / TILE_DEPTH, rows, layer.out, products,
             [&](int64_t row, int64_t column, const float* sums) {
               bf16* to = out + (start + row) * layer.out + column;
               ahead.next();
               __m512 low = load(sums), high = load(sums + LANES);
               if (layer.bias) low = add(low, load(layer.bias + column)), high = add(high, load(layer.bias + column + LANES));
               write_past(to, narrow(low, high));
             });
}

struct Gradients {
  float *tokens, *norm_weight, *norm_bias, *bias;  // the last three: a row for each chunk
};

// A token's gradient from `slope`, that of its normalised self: with s = slope weight and n the normalised token,
// scale (s - mean(s) - n mean(s n)).
void through_norm(const NormLinear& layer, const float* token, Moments of, const float* slope, const Gradients& to,
                  float* out) {
  const int64_t width = layer.in;
  __m512 total = all(0.0f), along = all(0.0f);
  for (int64_t i = 0; i < width; i += LANES) {
    const __m512 here = load(slope + i), value = normed(token, of, i), weighted = mul(here, load(layer.norm_weight + i));
    total = add(total, weighted);
    along = fma(weighted, value, along);
    store(to.norm_weight + i, fma(here, value, load(to.norm_weight + i)));
    store(to.norm_bias + i, add(here, load(to.norm_bias + i)));
  }
  const __m512 mean = all(sum(total) / width), share = all(sum(along) / width), scale = all(of.scale);
  for (int64_t i = 0; i < width; i += LANES) {
    const __m512 weighted = sub(mul(load(slope + i), load(layer.norm_weight + i)), mean);
    store(out + i, mul(scale, _mm512_fnmadd_ps(share, normed(token, of, i), weighted)));
  }
}

// The tokens' gradient of one chunk, and its part in the sides of the weight's.
void slopes(const NormLinear& layer, const float* tokens, const Moments* moments, const bf16* slope, const bf16* weights,
            const Gradients& all_to, const WeightGradient& sides, int64_t start, Scratch& scratch) {
  const int64_t rows = std::min(CHUNK, layer.rows - start), in = layer.in, out = layer.out, apart = out * TILE_ROWS;
  const int64_t number = start / CHUNK;
  const Gradients to{all_to.tokens, all_to.norm_weight + number * in, all_to.norm_bias + number * in,
                     all_to.bias + number * out};
  bf16 *tiles = scratch.take<bf16>(CHUNK * out), *lines = scratch.take<bf16>(CHUNK * in);
  float *products = scratch.take<float>(SIDE * SIDE), *changes = scratch.take<float>(CHUNK * in);
  std::fill_n(to.norm_weight, in, 0.0f);
  std::fill_n(to.norm_bias, in, 0.0f);
  std::fill_n(to.bias, out, 0.0f);
  slope += start * out;
  for (int64_t row = 0; row < rows; row++) {
    lay_row(slope + row * out, out, row, apart, tiles);
    if (layer.bias) add_row(to.bias, slope + row * out, out);
  }
  lay_zeros(rows, out, apart, tiles);
  Ahead<float> ahead(tokens + start * in, rows * in);
  Ahead<bf16> further(slope + CHUNK * out, layer.rows_from(start + CHUNK) * out);
  product_of({tiles, apart}, {weights, apart}, out / TILE_DEPTH, rows, in, products,
             [&](int64_t row, int64_t column, const float* sums) {
               ahead.next(2);
               further.next(3);
               store(changes + row * in + column, load(sums));
               store(changes + row * in + column + LANES, load(sums + LANES));
             });
  for (int64_t row = 0; row < rows; row++) {
    const float* token = tokens + (start + row) * in;
    const Moments of = moments[start + row];
    through_norm(layer, token, of, changes + row * in, to, to.tokens + (start + row) * in);
    for (int64_t i = 0; i < in; i += TILE_DEPTH) _mm512_store_si512(lines + row * in + i, affine(layer, token, of, i));
  }
  pair_columns(lines, in, rows, sides.apart(), sides.inputs + start * TILE_ROWS);
  turn_columns(slope, out, rows, sides.apart(), sides.slopes + start * TILE_ROWS);
}

size_t room(const NormLinear& layer) {
  return CHUNK * (2 * layer.in + layer.out) * sizeof(bf16) +
         (SIDE * SIDE + CHUNK * layer.in) * sizeof(float);
}

}  // namespace

// tokens (rows, in) -> out (rows, out), moments (rows, 2); sizes: rows, in, out.
extern "C" void norm_linear(const float* tokens, const float* norm_weight, const float* norm_bias, const float* weight,
                            const float* bias, float* moments, bf16* out, const int64_t* sizes, float eps, int threads) {
  const NormLinear layer{norm_weight, norm_bias, weight, bias, sizes[0], sizes[1], sizes[2], eps};
  bf16* tiles = shared_scratch(layer.in * layer.out * sizeof(bf16)).take<bf16>(layer.in * layer.out);
#pragma omp parallel num_threads(threads)
  {
    const Tiles unit;
    const NoDenormals no_denormals;
    turn_weight(weight, layer.out, layer.in, tiles);
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < layer.chunks(); chunk++)
      answers(layer, tokens, reinterpret_cast<Moments*>(moments), out, tiles, chunk * CHUNK, own_scratch(room(layer)));
  }
}

// What `norm_linear` took and kept, and the slope of its answer -> the gradients; `bias` says whether there is one, and
// its gradient is written in any case.
extern "C" void norm_linear_backward(const bf16* slope, const float* tokens, const float* moments,
                                     const float* norm_weight, const float* norm_bias, const float* weight,
                                     float* const* gradients, const int64_t* sizes, int has_bias, int threads) {
  const NormLinear layer{norm_weight, norm_bias, weight, has_bias ? weight : nullptr, sizes[0], sizes[1], sizes[2], 0.0f};
  const int64_t in = layer.in, out = layer.out, chunks = layer.chunks(), deep = layer.steps() * TILE_DEPTH;
  Scratch& shared = shared_scratch((in * out + (in + out) * deep) * sizeof(bf16) + chunks * (2 * in + out) * sizeof(float));
  bf16* tiles = shared.take<bf16>(in * out);
  bf16 *left = shared.take<bf16>(out * deep), *right = shared.take<bf16>(in * deep);
  const WeightGradient sides{left, right, layer.steps(), out, in, gradients[3]};
  float *weights = shared.take<float>(chunks * in), *biases = shared.take<float>(chunks * in);
  const Gradients parts{gradients[0], weights, biases, shared.take<float>(chunks * out)};
#pragma omp parallel num_threads(threads)
  {
    const Tiles unit;
    const NoDenormals no_denormals;
    pair_weight(weight, out, in, tiles);
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < chunks; chunk++)
      slopes(layer, tokens, reinterpret_cast<const Moments*>(moments), slope, tiles, parts, sides, chunk * CHUNK,
             own_scratch(room(layer)));
    write_gradient(sides, own_scratch(room(layer)).take<float>(SIDE * SIDE));
  }
  add_up_rows(parts.norm_weight, chunks, in, gradients[1]);
  add_up_rows(parts.norm_bias, chunks, in, gradients[2]);
  if (has_bias) add_up_rows(parts.bias, chunks, out, gradients[4]);
}
#endif
