// Performer attention in two passes over the tokens, in float32 whatever the tokens are in (see ops/performer.py):
// the keys' passes leave sum phi(k) v^T and sum phi(k) of each image, the queries' pass reads them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "scratch.h"
#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 256;   // tokens at a time: their features stay in the first cache
constexpr int64_t GROUP = 8;     // tokens whose features are in registers together
constexpr int64_t AHEAD = 16;    // tokens from where one is computed to where one is fetched
constexpr int64_t LONGEST = 128; // of a query or a key
constexpr float LARGEST_EXPONENT = 80.0f;

struct Shape {
  int64_t batch, tokens, dim, value_dim, stride;  // stride: from a token to the next, in elements
};

// log(sqrt(m) phi(u)) = W u - |u|^2 / 2 of `count` vectors; W is given as (dim, m), m = 16 V.
template <int V, class T>
void log_features(const T* vectors, const Shape& shape, int64_t count, const float* w, float* logs) {
  alignas(64) float u[GROUP][LONGEST];
  for (int64_t t = 0; t < count; t += GROUP) {
    const int64_t here = std::min(GROUP, count - t);
    if (here < GROUP) std::fill_n(&u[0][0], GROUP * LONGEST, 0.0f);
    float half[GROUP] = {};
    for (int64_t i = 0; i < here; i++) {
      const T* later = vectors + (t + i + AHEAD) * shape.stride;  // tokens lie too far apart for the processor to guess
      for (int64_t d = 0; d < shape.dim; d += 64 / sizeof(T)) _mm_prefetch(later + d, _MM_HINT_T0);
      __m512 squares = all(0.0f);
      for (int64_t d = 0; d < shape.dim; d += LANES) {
        const __m512 values = load(vectors + (t + i) * shape.stride + d, first(shape.dim - d));
        store(u[i] + d, values);
        squares = fma(values, values, squares);
      }
      half[i] = sum(squares) / 2;
    }
    __m512 products[GROUP][V];
    for (auto& row : products) std::fill_n(row, V, all(0.0f));
    for (int64_t d = 0; d < shape.dim; d++)
      for (int j = 0; j < V; j++) {
        const __m512 column = load(w + (d * V + j) * LANES);
        for (int i = 0; i < GROUP; i++) products[i][j] = fma(all(u[i][d]), column, products[i][j]);
      }
    for (int i = 0; i < GROUP; i++)  // `logs` has room for a whole group
      for (int j = 0; j < V; j++) store(logs + ((t + i) * V + j) * LANES, sub(products[i][j], all(half[i])));
  }
}

// What the keys of a block, or of an image, come to: (m, value_dim) numbers, m sums, and the maximum that was taken out.
template <int V>
struct Context {
  static constexpr int64_t M = V * LANES;
  static int64_t size(const Shape& shape) { return M * shape.value_dim + M + LANES; }
  Context(float* at, const Shape& shape) : products(at), sums(at + M * shape.value_dim), top(sums + M) {}
  float *products, *sums, *top;
};

// sum over `count` tokens of 8 features times E vectors of their values: (8, 16 E) numbers of `to`.
template <int E, class T>
void sum_values(const float* features, int64_t m, const T* values, const Shape& shape, int64_t count, float* to) {
  __m512 products[GROUP][E];
  for (auto& row : products) std::fill_n(row, E, all(0.0f));
  for (int64_t t = 0; t < count; t++, features += m, values += shape.stride) {
    _mm_prefetch(values + AHEAD * shape.stride, _MM_HINT_T0);
    __m512 value[E];
    for (int j = 0; j < E; j++) value[j] = load(values + j * LANES);
    for (int i = 0; i < GROUP; i++)
      for (int j = 0; j < E; j++) products[i][j] = fma(all(features[i]), value[j], products[i][j]);
  }
  for (int i = 0; i < GROUP; i++)
    for (int j = 0; j < E; j++) store(to + i * shape.value_dim + j * LANES, products[i][j]);
}

template <int V, class T>
void read_keys(const T* keys, const T* values, const Shape& shape, int64_t count, const float* w, float* logs,
               Context<V> to) {
  constexpr int64_t M = Context<V>::M;
  log_features<V>(keys, shape, count, w, logs);
  __m512 most = load(logs);
  for (int64_t i = LANES; i < count * M; i += LANES) most = greater(most, load(logs + i));
  *to.top = greatest(most);
  __m512 sums[V];
  std::fill_n(sums, V, all(0.0f));
  for (int64_t t = 0; t < count; t++)
    for (int j = 0; j < V; j++) {
      float* at = logs + (t * V + j) * LANES;
      const __m512 phi = exp_of(sub(load(at), all(*to.top)));
      sums[j] = add(sums[j], phi);
      store(at, phi);
    }
  for (int j = 0; j < V; j++) store(to.sums + j * LANES, sums[j]);
  for (int64_t e = 0; e < shape.value_dim; e += 2 * LANES)
    for (int64_t f = 0; f < M; f += GROUP) {
      if (e + LANES < shape.value_dim)
        sum_values<2>(logs + f, M, values + e, shape, count, to.products + f * shape.value_dim + e);
      else
        sum_values<1>(logs + f, M, values + e, shape, count, to.products + f * shape.value_dim + e);
    }
}

// The contexts of an image's blocks as one, brought to their common maximum.
template <int V>
void join(float* parts, int64_t blocks, const Shape& shape, float* joined) {
  const int64_t size = Context<V>::size(shape), live = size - LANES;
  const Context<V> to(joined, shape);
  float top = -INFINITY;
  for (int64_t p = 0; p < blocks; p++) top = std::max(top, *Context<V>(parts + p * size, shape).top);
  std::fill_n(joined, live, 0.0f);
  for (int64_t p = 0; p < blocks; p++) {
    const float keep = std::exp(*Context<V>(parts + p * size, shape).top - top);
    for (int64_t i = 0; i < live; i++) joined[i] += keep * parts[p * size + i];
  }
  *to.top = top;
}

// E vectors of the answers of `count` queries, at most 8: the sum over the features of their shares times `products`.
template <int E, class T>
void weigh_values(const float* shares, int64_t m, const float* products, const Shape& shape, int64_t count, T* out) {
  __m512 rows[GROUP][E];
  for (auto& row : rows) std::fill_n(row, E, all(0.0f));
  for (int64_t f = 0; f < m; f++, products += shape.value_dim) {
    __m512 product[E];
    for (int j = 0; j < E; j++) product[j] = load(products + j * LANES);
    for (int i = 0; i < GROUP; i++)
      for (int j = 0; j < E; j++) rows[i][j] = fma(all(shares[i * m + f]), product[j], rows[i][j]);
  }
  for (int i = 0; i < GROUP; i++)
    for (int j = 0; j < E; j++)
      if (i < count) store(out + i * shape.value_dim + j * LANES, rows[i][j]);
}

template <int V, class T>
void answer_queries(const T* queries, const Shape& shape, int64_t count, const float* w, float* logs, float epsilon,
                    const Context<V> context, T* out) {
  constexpr int64_t M = Context<V>::M;
  log_features<V>(queries, shape, count, w, logs);
  for (int64_t t = 0; t < count; t++) {
    float* at = logs + t * M;
    __m512 most = load(at);
    for (int j = 1; j < V; j++) most = greater(most, load(at + j * LANES));
    const float top = greatest(most);
    __m512 phi[V], total = all(0.0f);
    for (int j = 0; j < V; j++) {
      phi[j] = exp_of(sub(load(at + j * LANES), all(top)));
      total = fma(phi[j], load(context.sums + j * LANES), total);
    }
    const float taken_out = std::exp(std::min(-(*context.top + top), LARGEST_EXPONENT));
    const __m512 inverse = all(1.0f / (sum(total) + epsilon * M * taken_out));
    for (int j = 0; j < V; j++) store(at + j * LANES, mul(phi[j], inverse));
  }
  for (int64_t t = 0; t < count; t += GROUP)
    for (int64_t e = 0; e < shape.value_dim; e += 2 * LANES) {
      const float *shares = logs + t * M, *products = context.products + e;
      const int64_t here = std::min(GROUP, count - t);
      if (e + LANES < shape.value_dim)
        weigh_values<2>(shares, M, products, shape, here, out + t * shape.value_dim + e);
      else
        weigh_values<1>(shares, M, products, shape, here, out + t * shape.value_dim + e);
    }
}

template <int V, class T>
void performer(const T* queries, const T* keys, const T* values, T* out, const float* w, const Shape& shape,
               float epsilon, int threads) {
  const int64_t blocks = (shape.tokens + BLOCK - 1) / BLOCK, size = Context<V>::size(shape);
  std::vector<float> parts(shape.batch * blocks * size), contexts(shape.batch * size);
#pragma omp parallel num_threads(threads)
  {
    const NoDenormals no_denormals;
    Scratch scratch((BLOCK + GROUP) * Context<V>::M * sizeof(float));
    float* logs = scratch.take<float>((BLOCK + GROUP) * Context<V>::M);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < shape.batch * blocks; task++) {
      const int64_t start = task % blocks * BLOCK, count = std::min(BLOCK, shape.tokens - start);
      const int64_t at = (task / blocks * shape.tokens + start) * shape.stride;
      read_keys<V>(keys + at, values + at, shape, count, w, logs, Context<V>(parts.data() + task * size, shape));
    }
#pragma omp for schedule(static)
    for (int64_t b = 0; b < shape.batch; b++)
      join<V>(parts.data() + b * blocks * size, blocks, shape, contexts.data() + b * size);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < shape.batch * blocks; task++) {
      const int64_t start = task % blocks * BLOCK, count = std::min(BLOCK, shape.tokens - start);
      const int64_t token = task / blocks * shape.tokens + start;
      answer_queries<V>(queries + token * shape.stride, shape, count, w, logs, epsilon,
                        Context<V>(contexts.data() + task / blocks * size, shape), out + token * shape.value_dim);
    }
  }
}

template <class T>
void performer_of(const T* queries, const T* keys, const T* values, T* out, const float* w, const int64_t* shape,
                  int64_t features, float epsilon, int threads) {
  const Shape of{shape[0], shape[1], shape[2], shape[3], shape[4]};
  if (features == 16) performer<1>(queries, keys, values, out, w, of, epsilon, threads);
  if (features == 32) performer<2>(queries, keys, values, out, w, of, epsilon, threads);
}

}  // namespace

#define PERFORMER(NAME, T)                                                                                        \
  extern "C" void NAME(const T* queries, const T* keys, const T* values, T* out, const float* w,                   \
                       const int64_t* shape, int64_t features, float epsilon, int threads) {                       \
    performer_of(queries, keys, values, out, w, shape, features, epsilon, threads);                               \
  }
PERFORMER(performer_f32, float)
PERFORMER(performer_bf16, bf16)
