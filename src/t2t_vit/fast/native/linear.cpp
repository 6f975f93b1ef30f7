// Linear layers in float32: whole products, by all threads.
#include "product_f32.h"

#ifdef TILES
namespace {

// Lines laid out for the right side, by all threads of a team together.
void lay_out_right(const Side& side, bf16* tiles) {
  const int64_t groups = blocks_of(side.lines) * 2;
#pragma omp for schedule(static)
  for (int64_t group = 0; group < groups; group++)
    lay_out_lines(side, group * TILE_ROWS, true, tiles + group * steps_of(side.depth) * PARTED);
}

// The whole product, by all threads of a team together. Few rows are cut by columns, so that all have as much to do.
void multiply_all(const Side& left, const bf16* right, const Answer& answer, const LeftRoom& room, int threads) {
  const int64_t down = blocks_of(left.lines), across = blocks_of(answer.columns);
  const bool by_rows = down % threads == 0 || down >= 16 * threads;
#pragma omp for schedule(static)
  for (int64_t part = 0; part < threads; part++) {
    const int64_t next = part + 1;
    const int64_t end = by_rows ? std::min(left.lines, next * down / threads * SIDE) : left.lines;
    const int64_t from = by_rows ? 0 : part * across / threads, to = by_rows ? across : next * across / threads;
    for (int64_t row = by_rows ? part * down / threads * SIDE : 0; row < end; row += room.rows)
      multiply_rows(left, row, std::min(end, row + room.rows), right, from, to, answer, room);
  }
}

}  // namespace

// A right side (lines, depth) as (blocks of 32 lines, 2, steps of 32 numbers, 3 parts, 16, 16, 2).
extern "C" void lay_out_f32(const float* at, const int64_t* sizes, bf16* tiles, int threads) {
#pragma omp parallel num_threads(threads)
  lay_out_right({at, sizes[0], sizes[1]}, tiles);
}

// out (rows, columns) = activation(left right + bias) + residual, the right side laid out; rows, depth, columns, activation.
extern "C" void product_f32(const float* left, const bf16* right, const float* bias, const float* residual, float* out,
                            const int64_t* sizes, int threads) {
  const Side side{left, sizes[0], sizes[1]};
  const int64_t columns = sizes[2];
  const Answer answer{bias, {residual, columns}, {out, columns}, columns, static_cast<Activation>(sizes[3])};
#pragma omp parallel num_threads(threads)
  {
    const Tiles configured;
    const NoDenormals no_denormals;
    multiply_all(side, right, answer, LeftRoom::of(side.depth), threads);
  }
}
#endif
