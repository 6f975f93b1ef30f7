// Softmax attention in bfloat16: 16 queries at a time, scores and weights in the first cache, long rows of keys in blocks
// with the maximum corrected as they come (as FlashAttention does).
#include <algorithm>
#include <cmath>

#include "product.h"
#include "scratch.h"
#include "tiles.h"
#include "vectors.h"

namespace {

constexpr int64_t QUERIES = TILE_ROWS, KEYS = 256;  // of a block
constexpr int64_t TOKENS = 256;                     // for which each part of the weights is read once
static_assert(TOKENS % LEFT_ROWS == 0, "tokens are laid out in whole blocks of rows");

struct Shape {
  int64_t batch, tokens, heads, head_dim;
  int64_t dim() const { return heads * head_dim; }
  int64_t padded() const { return (tokens + TILE_DEPTH - 1) / TILE_DEPTH * TILE_DEPTH; }
};

// One thread's room.
struct Room {
  Room(Scratch& scratch, const Shape& s)
      : keys(scratch.take<bf16>(s.padded() * s.head_dim)), values(scratch.take<bf16>(s.padded() * s.head_dim)),
        queries(scratch.take<bf16>(QUERIES * s.head_dim)), weights(scratch.take<bf16>(QUERIES * KEYS)),
        scores(scratch.take<float>(QUERIES * KEYS)), sums(scratch.take<float>(QUERIES * s.head_dim)) {
    std::fill_n(weights, QUERIES * KEYS, bf16{0});
  }
  static size_t bytes(const Shape& s) {
    return s.padded() * s.head_dim * 2 * sizeof(bf16) + QUERIES * (s.head_dim + KEYS) * (sizeof(bf16) + sizeof(float));
  }
  bf16 *keys, *values, *queries, *weights;  // keys and values as the right sides of products
  float *scores, *sums;
  float top[QUERIES], total[QUERIES];
};

// A head's tokens as tiles that stand on the right, to be summed over their numbers: 32 numbers by 16 tokens, zeros
// behind the last token; `stride` numbers from one to the next.
void turn_tokens(const bf16* tokens, int64_t stride, const Shape& shape, bf16* to) {
  for (int64_t n = 0; n < shape.padded(); n += TILE_ROWS)
    for (int64_t d = 0; d < shape.head_dim; d += TILE_DEPTH, to += PAIRED)
      transpose_words(reinterpret_cast<const int32_t*>(tokens + n * stride + d), stride / 2, shape.tokens - n,
                      reinterpret_cast<int32_t*>(to));
}

// Tiles of 32 values by 16 of their numbers: what weights are multiplied with.
void lay_out_values(const bf16* values, int64_t stride, const Shape& shape, bf16* to) {
  for (int64_t n = 0; n < shape.padded(); n += TILE_DEPTH)
    for (int64_t d = 0; d < shape.head_dim; d += LANES, to += PAIRED)
      pair_rows(values + n * stride + d, stride, shape.tokens - n, to);
}

// scores (16, keys) = queries keys^T for `vectors` times 16 keys; rows behind `count` are not looked at.
#ifdef TILES
void multiply_keys(const Room& room, Left, int64_t, const bf16* keys, int64_t vectors, int64_t head_dim) {
  const int64_t steps = head_dim / TILE_DEPTH, bytes = KEYS * sizeof(float);
  int64_t v = 0;
  for (; v + 2 < vectors; v += 3) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int64_t step = 0; step < steps; step++) {
      const bf16* right = keys + (v * steps + step) * PAIRED;
      _tile_loadd(3, room.queries + step * TILE_DEPTH, head_dim * sizeof(bf16));
      _tile_loadd(4, right, TILE_BYTES);
      _tile_dpbf16ps(0, 3, 4);
      _tile_loadd(5, right + steps * PAIRED, TILE_BYTES);
      _tile_dpbf16ps(1, 3, 5);
      _tile_loadd(6, right + 2 * steps * PAIRED, TILE_BYTES);
      _tile_dpbf16ps(2, 3, 6);
    }
    float* to = room.scores + v * LANES;
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + LANES, bytes);
    _tile_stored(2, to + 2 * LANES, bytes);
  }
  for (; v < vectors; v++) {
    _tile_zero(0);
    for (int64_t step = 0; step < steps; step++) {
      _tile_loadd(3, room.queries + step * TILE_DEPTH, head_dim * sizeof(bf16));
      _tile_loadd(4, keys + (v * steps + step) * PAIRED, TILE_BYTES);
      _tile_dpbf16ps(0, 3, 4);
    }
    _tile_stored(0, room.scores + v * LANES, bytes);
  }
}
#else
void multiply_keys(const Room& room, Left queries, int64_t count, const bf16* keys, int64_t vectors, int64_t head_dim) {
  multiply(count, vectors, queries, {keys, LANES * head_dim, PAIRED}, head_dim / 2, room.scores, KEYS, false);
}
#endif

// weights = 2^(factor (score - top)) of `live` keys, zeros up to `keys`; what was summed before is brought to the new top.
void weigh(Room& room, int64_t row, int64_t live, int64_t keys, float factor, bool is_first, int64_t head_dim) {
  const float* scores = room.scores + row * KEYS;
  bf16* weights = room.weights + row * KEYS;
  const int64_t whole = (live - 1) / LANES * LANES;
  const __mmask16 last = first(live - whole);
  __m512 most = _mm512_mask_loadu_ps(all(-INFINITY), last, scores + whole);
  for (int64_t i = 0; i < whole; i += LANES) most = greater(most, load(scores + i));
  const float top = is_first ? greatest(most) : std::max(room.top[row], greatest(most));
  const __m512 times = all(factor), minus = all(-top * factor);
  __m512 total = all(0.0f);
  for (int64_t i = 0; i < whole; i += LANES) {
    const __m512 weight = exp2_of_weight(fma(load(scores + i), times, minus));
    total = add(total, weight);
    store(weights + i, weight);
  }
  const __m512 weight = _mm512_maskz_mov_ps(last, exp2_of_weight(fma(load(scores + whole, last), times, minus)));
  store(weights + whole, weight);
  if (whole + LANES < keys) store(weights + whole + LANES, all(0.0f));
  const float now = sum(add(total, weight));
  if (!is_first) {
    const float keep = std::exp2((room.top[row] - top) * factor);
    for (int64_t d = 0; d < head_dim; d += LANES) {
      float* at = room.sums + row * head_dim + d;
      store(at, mul(load(at), all(keep)));
    }
    room.total[row] = room.total[row] * keep + now;
  } else {
    room.total[row] = now;
  }
  room.top[row] = top;
}

// sums (16, head_dim) += weights values, for `live` keys and zeros behind them.
#ifdef TILES
void multiply_values(const Room& room, const bf16* values, int64_t, int64_t live, bool is_first, int64_t head_dim) {
  const int64_t bytes = head_dim * sizeof(float), across = head_dim / LANES;
  const int64_t steps = (live + TILE_DEPTH - 1) / TILE_DEPTH;
  for (int64_t d = 0; d < across; d += 2) {
    float* to = room.sums + d * LANES;
    if (is_first) {
      _tile_zero(0);
      _tile_zero(1);
    } else {
      _tile_loadd(0, to, bytes);
      _tile_loadd(1, to + LANES, bytes);
    }
    for (int64_t step = 0; step < steps; step++) {
      const bf16* right = values + (step * across + d) * PAIRED;
      _tile_loadd(2, room.weights + step * TILE_DEPTH, KEYS * sizeof(bf16));
      _tile_loadd(3, right, TILE_BYTES);
      _tile_dpbf16ps(0, 2, 3);
      _tile_loadd(4, right + PAIRED, TILE_BYTES);
      _tile_dpbf16ps(1, 2, 4);
    }
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + LANES, bytes);
  }
}
#else
void multiply_values(const Room& room, const bf16* values, int64_t count, int64_t live, bool is_first, int64_t head_dim) {
  const int64_t across = head_dim / LANES;
  multiply(count, across, {room.weights, KEYS}, {values, PAIRED, across * PAIRED}, (live + 1) / 2, room.sums, head_dim,
           !is_first);
}
#endif

// `count` queries, at most 16, of one head.
void answer(Room& room, const bf16* queries, int64_t stride, int64_t count, const Shape& shape, float factor, bf16* out) {
  const int64_t head_dim = shape.head_dim;
#ifdef TILES
  for (int64_t i = 0; i < count; i++) std::memcpy(room.queries + i * head_dim, queries + i * stride, head_dim * 2);
  std::fill(room.queries + count * head_dim, room.queries + QUERIES * head_dim, bf16{0});
#endif
  for (int64_t start = 0; start < shape.tokens; start += KEYS) {
    const int64_t keys = std::min(KEYS, shape.padded() - start), live = std::min(keys, shape.tokens - start);
    multiply_keys(room, {queries, stride}, count, room.keys + start * head_dim, (live + LANES - 1) / LANES, head_dim);
    for (int64_t row = 0; row < count; row++) weigh(room, row, live, keys, factor, start == 0, head_dim);
    multiply_values(room, room.values + start * head_dim, count, live, start == 0, head_dim);
  }
  for (int64_t row = 0; row < count; row++) {
    const __m512 inverse = all(1.0f / room.total[row]);
    for (int64_t d = 0; d < head_dim; d += LANES)
      store(out + row * shape.dim() + d, mul(load(room.sums + row * head_dim + d), inverse));
  }
}

// Queries `start` to `end` of one head; `qkv` and `out` are its image's.
void of_head(Room& room, const bf16* qkv, int64_t head, int64_t start, int64_t end, const Shape& shape, float factor,
             bf16* out) {
  const int64_t stride = 3 * shape.dim(), at = head * shape.head_dim;
  turn_tokens(qkv + at + shape.dim(), stride, shape, room.keys);
  lay_out_values(qkv + at + 2 * shape.dim(), stride, shape, room.values);
  for (int64_t query = start; query < end; query += QUERIES)
    answer(room, qkv + at + query * stride, stride, std::min(QUERIES, end - query), shape, factor,
           out + at + query * shape.dim());
}

}  // namespace

// qkv (batch, tokens, 3, heads, head_dim) -> out (batch, tokens, heads, head_dim); head_dim is a multiple of 32.
extern "C" void attention_bf16(const bf16* qkv, bf16* out, const int64_t* sizes, float scale, int threads) {
  const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  const int64_t stride = 3 * shape.dim(), pairs = shape.batch * shape.heads;
  // Few heads of few images are cut into parts, each of which lays out its keys and values again.
  const int64_t parts = pairs >= threads ? 1 : (threads + pairs - 1) / pairs;
  const int64_t part = (shape.tokens + parts * QUERIES - 1) / (parts * QUERIES) * QUERIES;
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles;
    const NoDenormals no_denormals;
    static thread_local Kept kept;
    Room room(kept.of(Room::bytes(shape)), shape);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < pairs * parts; task++) {
      const int64_t image = task / parts / shape.heads, head = task / parts % shape.heads;
      const int64_t start = task % parts * part, end = std::min(shape.tokens, start + part);
      of_head(room, qkv + image * shape.tokens * stride, head, start, end, shape, scale * LOG2_E,
              out + image * shape.tokens * shape.dim());
    }
  }
}

// The same from tokens (batch, tokens, dim) on, with their norm and the layer that makes queries, keys and values of
// them, weights (3 dim, dim): an image at a time, so that these never leave the second cache.
extern "C" void mix_bf16(const bf16* given, const bf16* norm_weight, const bf16* norm_bias, float eps,
                         const bf16* weights, const float* bias, bf16* out, const int64_t* sizes, float scale,
                         int threads) {
  const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  const int64_t dim = shape.dim();
  const Layer layer{weights, bias, dim, 3 * dim, NONE};
  const Norm norm{norm_weight, norm_bias, eps};
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles;
    const NoDenormals no_denormals;
    static thread_local Kept kept;
    Scratch& scratch =
        kept.of(Room::bytes(shape) + (TOKENS + 3 * shape.tokens) * dim * sizeof(bf16) + SIDE * SIDE * sizeof(float));
    Room room(scratch, shape);
    bf16* normed = scratch.take<bf16>(TOKENS * dim);
    bf16* qkv = scratch.take<bf16>(3 * shape.tokens * dim);
    float* products = scratch.take<float>(SIDE * SIDE);
#pragma omp for schedule(dynamic)
    for (int64_t image = 0; image < shape.batch; image++) {
      const bf16* tokens = given + image * shape.tokens * dim;
      for (int64_t start = 0; start < shape.tokens; start += TOKENS) {
        const int64_t rows = std::min(TOKENS, shape.tokens - start);
        const Left left = lay_out(norm, {tokens + start * dim, dim}, rows, dim, normed);
        run({layer, left, {qkv + start * 3 * dim, 3 * dim}, {}, rows, false}, products);
      }
      for (int64_t head = 0; head < shape.heads; head++)
        of_head(room, qkv, head, 0, shape.tokens, shape, scale * LOG2_E, out + image * shape.tokens * dim);
    }
  }
}

// Whether these kernels were compiled for the matrix unit.
extern "C" int has_tiles() {
#ifdef TILES
  return 1;
#else
  return 0;
#endif
}
