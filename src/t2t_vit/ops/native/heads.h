// The heads of an attention, and their tokens as one side of a product.
#pragma once

#include "tiles.h"
#include "vectors.h"

struct Shape {
  int64_t batch, tokens, heads, head_dim;
  int64_t dim() const { return heads * head_dim; }
  int64_t padded() const { return (tokens + TILE_DEPTH - 1) / TILE_DEPTH * TILE_DEPTH; }
};

// A head's tokens as tiles that stand on the right, to be summed over their numbers: 32 numbers by 16 tokens, zeros
// behind the last token; `stride` numbers from one to the next.
inline void turn_tokens(const bf16* tokens, int64_t stride, const Shape& shape, bf16* to) {
  for (int64_t n = 0; n < shape.padded(); n += TILE_ROWS)
    for (int64_t d = 0; d < shape.head_dim; d += TILE_DEPTH, to += PAIRED)
      transpose_words(reinterpret_cast<const int32_t*>(tokens + n * stride + d), stride / 2, shape.tokens - n,
                      reinterpret_cast<int32_t*>(to));
}
