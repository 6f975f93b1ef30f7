"""The kernels of split + LayerNorm + Linear, in Triton's language; `split_norm_linear_triton` starts them.

A window is gathered, centred and scaled before every product.

Channels vary fastest inside a window here, as in a map that lies channels last: (row, column, c). Windows of flat areas
have a deviation of sqrt(eps), and what is left of x - mean is multiplied by 316, so nothing is computed as a difference
of products. No kernel writes to a place that another program writes to: the same numbers at every run.
"""

# mypy: ignore-errors
# Triton compiles this text: it is no Python for a type checker.
import triton
import triton.language as tl


@triton.jit
def _place(token, count, columns, image_stride, STRIDE: tl.constexpr, PADDING: tl.constexpr):
    """Where windows begin: offset of their image, and their first row and column, which can lie outside of it."""
    within = (token % count).to(tl.int32)
    top = (within // columns) * STRIDE - PADDING
    left = (within % columns) * STRIDE - PADDING
    return (token // count) * image_stride, top, left


@triton.jit
def _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride,
            CHANNELS: tl.constexpr, KERNEL: tl.constexpr):  # fmt: skip
    """Numbers `k` of windows, in float32; the padding is 0, and so is what there is not."""
    place = k // CHANNELS
    y = top[:, None] + (place // KERNEL)[None, :]
    x = left[:, None] + (place % KERNEL)[None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (k < CHANNELS * KERNEL * KERNEL)[None, :]
    offsets = image[:, None] + y * y_stride + x * x_stride + ((k % CHANNELS) * c_stride)[None, :]
    return tl.load(features + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def moments(features, mean, rstd, tokens, count, columns, height, width, b_stride, c_stride, y_stride, x_stride, eps,
            CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
            ROWS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = token < tokens
    image, top, left = _place(tl.where(real, token, 0), count, columns, b_stride, STRIDE, PADDING)
    LENGTH: tl.constexpr = CHANNELS * KERNEL * KERNEL
    # The mean is taken of what is left over one number of the window: so that of a flat window is exact.
    middle = tl.full((1,), (KERNEL // 2 * KERNEL + KERNEL // 2) * CHANNELS, tl.int32)
    pivot = tl.sum(_gather(features, image, top, left, middle, height, width, c_stride, y_stride, x_stride,
                           CHANNELS, KERNEL), 1)  # fmt: skip
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride, CHANNELS, KERNEL)
        total += tl.sum(tl.where((k < LENGTH)[None, :], x - pivot[:, None], 0.0), 1)
    centre = pivot + total / LENGTH
    squares = tl.zeros((ROWS,), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride, CHANNELS, KERNEL)
        rest = tl.where((k < LENGTH)[None, :], x - centre[:, None], 0.0)
        squares += tl.sum(rest * rest, 1)
    tl.store(mean + token, centre, mask=real)
    tl.store(rstd + token, 1.0 / tl.sqrt_rn(squares / LENGTH + eps), mask=real)


@triton.jit
def product(features, mean, rstd, weight, offset, out, tokens, count, columns, height, width,
            b_stride, c_stride, y_stride, x_stride,
            CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
            OUT: tl.constexpr, PRECISION: tl.constexpr,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    across = tl.cdiv(OUT, COLUMNS)
    token = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    real = token < tokens
    image, top, left = _place(tl.where(real, token, 0), count, columns, b_stride, STRIDE, PADDING)
    centre, scale = tl.load(mean + token, mask=real, other=0.0), tl.load(rstd + token, mask=real, other=0.0)
    LENGTH: tl.constexpr = CHANNELS * KERNEL * KERNEL
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride, CHANNELS, KERNEL)
        normed = ((x - centre[:, None]) * scale[:, None]).to(weight.dtype.element_ty)
        w = tl.load(weight + k[:, None] * OUT + n[None, :], mask=(k < LENGTH)[:, None] & (n < OUT)[None, :], other=0.0)
        total = tl.dot(normed, w, total, input_precision=PRECISION)
    total += tl.load(offset + n, mask=n < OUT, other=0.0)[None, :]
    place = out + token[:, None] * OUT + n[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=real[:, None] & (n < OUT)[None, :])


@triton.jit
def correlation(grad, features, mean, rstd, parts, tokens, count, columns, height, width,
                b_stride, c_stride, y_stride, x_stride, part_length,
                CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                OUT: tl.constexpr, PRECISION: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """A part's sum of x^ u^T: a tile of (LENGTH, OUT), windows of the part summed over DEPTH at a time."""
    LENGTH: tl.constexpr = CHANNELS * KERNEL * KERNEL
    across, down = tl.cdiv(OUT, COLUMNS), tl.cdiv(LENGTH, ROWS)
    n = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    k = (tl.program_id(0) // across % down) * ROWS + tl.arange(0, ROWS)
    part = (tl.program_id(0) // (across * down)).to(tl.int64)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, part_length, DEPTH):
        token = part * part_length + start + tl.arange(0, DEPTH)
        real = token < tokens
        image, top, left = _place(tl.where(real, token, 0), count, columns, b_stride, STRIDE, PADDING)
        centre, scale = tl.load(mean + token, mask=real, other=0.0), tl.load(rstd + token, mask=real, other=0.0)
        x = _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride, CHANNELS, KERNEL)
        u = tl.load(grad + token[:, None] * OUT + n[None, :], mask=real[:, None] & (n < OUT)[None, :], other=0.0)
        normed = ((x - centre[:, None]) * scale[:, None]).to(u.dtype)
        total = tl.dot(tl.trans(normed), u, total, input_precision=PRECISION)
    place = parts + part * LENGTH * OUT + k[:, None] * OUT + n[None, :]
    tl.store(place, total, mask=(k < LENGTH)[:, None] & (n < OUT)[None, :])


@triton.jit
def sums(grad, features, mean, rstd, weight, shift, slope, tokens, count, columns, height, width,
         b_stride, c_stride, y_stride, x_stride,
         CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
         OUT: tl.constexpr, PRECISION: tl.constexpr,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """What LayerNorm's gradient takes off a window: rstd mean(v) and rstd^2 mean(v x^), for the gradient v of x^."""
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = token < tokens
    image, top, left = _place(tl.where(real, token, 0), count, columns, b_stride, STRIDE, PADDING)
    centre, scale = tl.load(mean + token, mask=real, other=0.0), tl.load(rstd + token, mask=real, other=0.0)
    LENGTH: tl.constexpr = CHANNELS * KERNEL * KERNEL
    plain, along = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, LENGTH, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        v = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, OUT, DEPTH):
            n = first + tl.arange(0, DEPTH)
            u = tl.load(grad + token[:, None] * OUT + n[None, :], mask=real[:, None] & (n < OUT)[None, :], other=0.0)
            w = tl.load(weight + k[None, :] * OUT + n[:, None],
                        mask=(k < LENGTH)[None, :] & (n < OUT)[:, None], other=0.0)  # fmt: skip
            v = tl.dot(u, w, v, input_precision=PRECISION)
        x = _gather(features, image, top, left, k, height, width, c_stride, y_stride, x_stride, CHANNELS, KERNEL)
        plain += tl.sum(v, 1)
        along += tl.sum(v * ((x - centre[:, None]) * scale[:, None]), 1)
    tl.store(shift + token, scale * plain / LENGTH, mask=real)
    tl.store(slope + token, scale * scale * along / LENGTH, mask=real)


@triton.jit
def to_features(grad, features, mean, rstd, shift, slope, weight, out, pixels, tall, wide, rows, columns,
                height, width, b_stride, c_stride, y_stride, x_stride, ob_stride, oc_stride, oy_stride, ox_stride,
                CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                OUT: tl.constexpr, PRECISION: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Each pixel sums over the windows that contain it; pixels a stride apart lie at the same places of theirs."""
    across = tl.cdiv(CHANNELS, COLUMNS)
    phase = tl.program_id(0) % (STRIDE * STRIDE)
    c = (tl.program_id(0) // (STRIDE * STRIDE) % across) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = (tl.program_id(0) // (STRIDE * STRIDE * across)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    image, within = pixel // (tall * wide), (pixel % (tall * wide)).to(tl.int32)
    phase_y, phase_x = phase // STRIDE, phase % STRIDE
    step_y, step_x = within // wide, within % wide
    y, x = step_y * STRIDE + phase_y - PADDING, step_x * STRIDE + phase_x - PADDING
    real = (pixel < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    both = real[:, None] & (c < CHANNELS)[None, :]
    place = image * b_stride + y * y_stride + x * x_stride
    value = tl.load(features + place[:, None] + (c * c_stride)[None, :], mask=both, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for down in range(0, (KERNEL - phase_y + STRIDE - 1) // STRIDE):
        for right in range(0, (KERNEL - phase_x + STRIDE - 1) // STRIDE):
            row, column = step_y - down, step_x - right
            has = real & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            token = tl.where(has, image * rows * columns + row * columns + column, 0)
            k = ((phase_y + down * STRIDE) * KERNEL + phase_x + right * STRIDE) * CHANNELS + c
            v = tl.zeros((ROWS, COLUMNS), tl.float32)
            for first in range(0, OUT, DEPTH):
                n = first + tl.arange(0, DEPTH)
                u = tl.load(grad + token[:, None] * OUT + n[None, :], mask=has[:, None] & (n < OUT)[None, :], other=0.0)
                w = tl.load(weight + k[None, :] * OUT + n[:, None],
                            mask=(c < CHANNELS)[None, :] & (n < OUT)[:, None], other=0.0)  # fmt: skip
                v = tl.dot(u, w, v, input_precision=PRECISION)
            centre, scale = tl.load(mean + token, mask=has, other=0.0), tl.load(rstd + token, mask=has, other=0.0)
            less = tl.load(shift + token, mask=has, other=0.0)
            by = tl.load(slope + token, mask=has, other=0.0)
            total += scale[:, None] * v - (less[:, None] + (value - centre[:, None]) * by[:, None])
    place = image * ob_stride + y * oy_stride + x * ox_stride
    tl.store(out + place[:, None] + (c * oc_stride)[None, :], total.to(out.dtype.element_ty), mask=both)
