// The soft split's windows, each centred and scaled as LayerNorm does, before anything is multiplied: on flat areas of
// an image a product of what is not centred would lose its digits.
#include <algorithm>
#include <cmath>

#include "scratch.h"
#include "vectors.h"

namespace {

struct Map {  // (batch, channels, height, width), strides in elements
  int64_t batch, channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
};

struct Split {
  int64_t kernel, stride, padding;
  int64_t along(int64_t side) const { return (side + 2 * padding - kernel) / stride + 1; }
};

// One row of the map with its channels fastest, between `padding` zeros that are there already.
template <class In>
void read_row(const In* from, const Map& map, float* to) {
  if (map.channel_stride == 1 && map.column_stride == map.channels) {
    const int64_t count = map.width * map.channels;
    for (int64_t i = 0; i < count; i += LANES) store(to + i, load(from + i, first(count - i)), first(count - i));
    return;
  }
  for (int64_t c = 0; c < map.channels; c++)
    for (int64_t i = 0; i < map.width; i++)
      to[i * map.channels + c] = number(from + c * map.channel_stride + i * map.column_stride);
}

// (window - mean) / sqrt(variance + eps), zeros behind it up to `length`; `size` values, 16 zeros behind them. On flat
// areas the last digit of the mean comes out 316 times as large, so what is left of it after centring is taken off too.
template <class Out>
void write_normalised(const float* window, int64_t size, __m512 total, float eps, Out* token, int64_t length) {
  const __m512 mean = all(sum(total) / size);
  __m512 squares = all(0.0f), left = all(0.0f);
  for (int64_t i = 0; i < size; i += LANES) {
    const __m512 centred = _mm512_maskz_sub_ps(first(size - i), load(window + i), mean);
    left = add(left, centred);
    squares = fma(centred, centred, squares);
  }
  const float rest = sum(left) / size, variance = std::max(0.0f, sum(squares) / size - rest * rest);
  const __m512 scale = all(1.0f / std::sqrt(variance + eps)), shift = all(rest);
  for (int64_t i = 0; i < length; i += LANES) {
    const __mmask16 live = first(size - i);
    const __m512 centred = _mm512_maskz_sub_ps(live, load(window + std::min(i, size)), mean);
    store(token + i, _mm512_maskz_mul_ps(live, sub(centred, shift), scale), first(length - i));
  }
}

template <class Out>
void write(const float* window, int64_t size, Out* token, int64_t length) {
  for (int64_t i = 0; i < length; i += LANES)
    store(token + i, _mm512_maskz_mov_ps(first(size - i), load(window + std::min(i, size))), first(length - i));
}

template <class In, class Out>
void windows(const In* features, Out* tokens, const Map& map, const Split& split, int64_t length, bool normalise,
             float eps, int threads) {
  const int64_t rows = split.along(map.height), columns = split.along(map.width);
  const int64_t run = split.kernel * map.channels, size = split.kernel * run;
  const int64_t line = (map.width + 2 * split.padding) * map.channels;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch((split.kernel * line + size + 4 * LANES) * sizeof(float));
    float* band = scratch.take<float>(split.kernel * line + LANES);  // the rows of the map under one row of windows
    float* window = scratch.take<float>(size + LANES);
    std::fill_n(band, split.kernel * line + LANES, 0.0f);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < map.batch * rows; task++) {
      const In* image = features + task / rows * map.batch_stride;
      for (int64_t j = 0; j < split.kernel; j++) {
        const int64_t y = task % rows * split.stride + j - split.padding;
        float* to = band + j * line + split.padding * map.channels;
        if (y < 0 || y >= map.height)
          std::fill_n(to, map.width * map.channels, 0.0f);
        else
          read_row(image + y * map.row_stride, map, to);
      }
      Out* token = tokens + task * columns * length;
      for (int64_t column = 0; column < columns; column++, token += length) {
        __m512 total = all(0.0f);
        for (int64_t j = 0; j < split.kernel; j++) {
          const float* from = band + j * line + column * split.stride * map.channels;
          for (int64_t i = 0; i < run; i += LANES) {
            const __m512 values = load(from + i, first(run - i));
            total = add(total, values);
            store(window + j * run + i, values);
          }
        }
        if (normalise)
          write_normalised(window, size, total, eps, token, length);
        else
          write(window, size, token, length);
      }
    }
  }
}

}  // namespace

#define WINDOWS(NAME, IN, OUT)                                                                                     \
  extern "C" void NAME(const IN* features, OUT* tokens, const int64_t* map, const int64_t* split, int64_t length,   \
                       int normalise, float eps, int threads) {                                                    \
    windows(features, tokens, {map[0], map[1], map[2], map[3], map[4], map[5], map[6], map[7]},                    \
            {split[0], split[1], split[2]}, length, normalise != 0, eps, threads);                                 \
  }
WINDOWS(windows_f32_f32, float, float)
WINDOWS(windows_f32_bf16, float, bf16)
WINDOWS(windows_bf16_bf16, bf16, bf16)
