// The gradient of a linear layer's weight and bias, from its inputs and the slopes of its answers, which were laid out as
// tiles on the way: sums over all tokens, in an order that does not depend on the number of threads.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "scratch.h"

#ifdef __AMX_BF16__
// What a call's threads have in common, kept from call to call by the thread that calls.
inline Scratch& shared_scratch(size_t bytes) {
  thread_local Kept kept;
  return kept.of(bytes);
}

// A thread's own, kept likewise.
inline Scratch& own_scratch(size_t bytes) {
  thread_local Kept kept;
  return kept.of(bytes);
}

struct WeightGradient {
  bf16 *slopes, *inputs;  // left side of `out` lines, right side of `in` lines, both `steps` deep
  int64_t steps, out, in;
  float* to;  // (out, in)
  int64_t apart() const { return steps * PAIRED; }
};

// Shared by the threads of a region. A task's inputs stay in the second cache, 32 of its columns in the first.
inline void write_gradient(const WeightGradient& gradient, float* products) {
  constexpr int64_t OUT = 128, IN = 384, DEEPEST = 8;
  const int64_t out = gradient.out, in = gradient.in, apart = gradient.apart();
  const int64_t parts = (gradient.steps + DEEPEST - 1) / DEEPEST, deep = (gradient.steps + parts - 1) / parts;
  const int64_t across = (out + OUT - 1) / OUT, tasks = across * ((in + IN - 1) / IN);
#pragma omp for schedule(static)
  for (int64_t task = 0; task < tasks; task++) {
    const int64_t row = task % across * OUT, column = task / across * IN;
    float* to = gradient.to + row * in + column;
    for (int64_t step = 0; step < gradient.steps; step += deep) {
      const bool goes_on = step > 0;
      const int64_t steps = std::min(deep, gradient.steps - step), next = std::min(deep, gradient.steps - step - steps);
      const bf16* inputs = gradient.inputs + column / TILE_ROWS * apart + step * PAIRED;
      Ahead<bf16> ahead(inputs + steps * PAIRED, next * PAIRED, next > 0 ? std::min(IN, in - column) / TILE_ROWS : 0, apart);
      const auto add_up = [&](int64_t line, int64_t place, const float* sums) {
        float* at = to + line * in + place;
        ahead.next(5);
        claim(at + SIDE);
        claim(at + SIDE + LANES);
        for (int64_t i = 0; i < SIDE; i += LANES) store(at + i, goes_on ? add(load(at + i), load(sums + i)) : load(sums + i));
      };
      product_of({gradient.slopes + row / TILE_ROWS * apart + step * PAIRED, apart},
                 {inputs, apart}, steps, std::min(OUT, out - row), std::min(IN, in - column), products, add_up);
    }
  }
}

// to = to + a row.
inline void add_row(float* to, const bf16* row, int64_t width) {
  for (int64_t i = 0; i < width; i += LANES) store(to + i, add(load(to + i), load(row + i)));
}

// The sum of `count` rows of `width` numbers.
inline void add_up_rows(const float* rows, int64_t count, int64_t width, float* to) {
  std::copy_n(rows, width, to);
  for (int64_t row = 1; row < count; row++)
    for (int64_t i = 0; i < width; i += LANES) store(to + i, add(load(to + i), load(rows + row * width + i)));
}
#endif
