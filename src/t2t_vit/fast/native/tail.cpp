// What is behind an attention, in bfloat16: projection, residual, LayerNorm and MLP for
// some tokens at a time, so that nothing between leaves the cache.
#include <algorithm>
#include <cmath>

#include "product.h"
#include "scratch.h"
#include "tiles.h"

namespace {

// What is behind an attention: tokens = residual + proj(mixed), then tokens + second(first(norm(tokens))).
struct Tail {
  const Layer &proj, &first, &second;
  const Norm norm;
};

// One thread's room.
struct Room {
  Room(Scratch& scratch, const Tail& layers)
      : products(scratch.take<float>(SIDE * SIDE)), inputs(scratch.take<bf16>(CHUNK * layers.proj.in)),
        tokens(scratch.take<bf16>(CHUNK * layers.proj.width)), normed(scratch.take<bf16>(CHUNK * layers.first.in)),
        middle(scratch.take<bf16>(CHUNK * layers.first.width)) {
#ifdef TILES  // whose blocks have more rows than the last chunk
    std::fill_n(middle, CHUNK * layers.first.width, bf16{0});
#endif
  }
  static size_t bytes(const Tail& layers) {
    return SIDE * SIDE * sizeof(float) + CHUNK * (3 * layers.proj.in + layers.first.width) * sizeof(bf16);
  }
  float* products;
  bf16 *inputs, *tokens, *normed, *middle;
};

void of_chunk(const Tail& layers, const Room& room, Rows<const bf16> mixed, Rows<const bf16> residual, Rows<bf16> out,
              int64_t rows) {
  const Layer &proj = layers.proj, &first = layers.first, &second = layers.second;
#ifdef TILES
  const Left inputs = lay_out({}, mixed, rows, proj.in, room.inputs);
#else
  const Left inputs{mixed.at, mixed.stride};
#endif
  run({proj, inputs, {room.tokens, proj.width}, residual, rows, false}, room.products);
  const Left normed = lay_out(layers.norm, {room.tokens, proj.width}, rows, first.in, room.normed);
  run({first, normed, {room.middle, first.width}, {}, rows, true}, room.products);
  run({second, left_of(room.middle, first.width), out, {room.tokens, proj.width}, rows, false}, room.products);
}

void tail(const Tail& layers, Rows<const bf16> mixed, Rows<const bf16> residual, Rows<bf16> out, int64_t rows,
          int threads) {
  // Every thread has as many chunks as the others, and all chunks are of about the same size.
  const int64_t chunks = ((rows + CHUNK - 1) / CHUNK + threads - 1) / threads * threads;
  const int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles;
    const NoDenormals no_denormals;
    static thread_local Kept kept;
    const Room room(kept.of(Room::bytes(layers)), layers);
#pragma omp for schedule(dynamic)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      const int64_t start = chunk * blocks / chunks * BLOCK_ROWS;
      const int64_t end = std::min(rows, (chunk + 1) * blocks / chunks * BLOCK_ROWS);
      if (start < end)
        of_chunk(layers, room, {mixed.row(start), mixed.stride}, {residual.row(start), residual.stride},
                 {out.row(start), out.stride}, end - start);
    }
  }
}

}  // namespace

// Weights and biases of three layers; sizes: rows, width of the tokens, of the middle, distance of the residual's rows,
// activation.
extern "C" void tail_bf16(const bf16* mixed, const bf16* residual, const bf16* norm_weight, const bf16* norm_bias,
                          float eps, const bf16* const* weights, const float* const* biases, bf16* out,
                          const int64_t* sizes, int threads) {
  const int64_t width = sizes[1], middle = sizes[2];
  const Layer proj{weights[0], biases[0], width, width, NONE};
  const Layer first{weights[1], biases[1], width, middle, static_cast<Activation>(sizes[4])};
  const Layer second{weights[2], biases[2], middle, width, NONE};
  tail({proj, first, second, {norm_weight, norm_bias, eps}}, {mixed, width}, {residual, sizes[3]}, {out, width},
       sizes[0], threads);
}
