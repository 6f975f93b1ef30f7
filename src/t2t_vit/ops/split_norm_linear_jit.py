"""The kernels of split + LayerNorm + Linear, in Triton's language; `split_norm_linear_triton` starts them.

A window is gathered, centred and scaled before every product.

A window is laid out in lines, so that neighbours in memory stay neighbours and the parts of a place are shifts: with
LAST, channels last, a line is a place's channels and the window (row, column, channel); else it is a row of pixels
and the window (channel, row, column). Lines are filled up with zeros to SIDE numbers, a power of two.

Windows of flat areas have a deviation of sqrt(eps), and what is left of x - mean is multiplied by 316, so nothing is
computed as a difference of products. No kernel writes to a place that another program writes to: the same numbers at
every run.
"""

# mypy: ignore-errors
# Triton compiles this text: it is no Python for a type checker.
import triton
import triton.language as tl


@triton.jit
def _place(first, tokens, count, columns, b_stride, y_stride, x_stride,
           STRIDE: tl.constexpr, PADDING: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Of ROWS windows from number `first` on: where the first one's image begins, and each one's offset, row, column.

    Offsets are relative to that image, so that 32 bits hold them, and the first row and column can lie outside of it.
    """
    image = first // count
    within = (first - image * count).to(tl.int32) + tl.arange(0, ROWS)
    within = tl.where(first + tl.arange(0, ROWS) < tokens, within, 0)
    place = within % count
    top, left = (place // columns) * STRIDE - PADDING, (place % columns) * STRIDE - PADDING
    return image * b_stride, (within // count) * b_stride + top * y_stride + left * x_stride, top, left


@triton.jit
def _gather(features, offsets, top, left, k, height, width, c_stride, y_stride, x_stride,
            CHANNELS: tl.constexpr, KERNEL: tl.constexpr, LAST: tl.constexpr, SIDE: tl.constexpr, PAIR: tl.constexpr,
            ):  # fmt: skip
    """Numbers `k` of windows, in float32, and which of them are a window's own; the padding is 0."""
    line, along = k // SIDE, k % SIDE
    if LAST:
        LINES: tl.constexpr = KERNEL * KERNEL
        REAL: tl.constexpr = CHANNELS
        row, column, channel = line // KERNEL, line % KERNEL, along
        begin = column
    else:
        LINES: tl.constexpr = CHANNELS * KERNEL
        REAL: tl.constexpr = KERNEL
        channel, row, column = line // KERNEL, line % KERNEL, along
        begin = k // PAIR % (SIDE // PAIR) * PAIR  # of a pair
    # A negative row is a very large one without a sign. PAIR neighbours of a line lie inside or outside together.
    inside = (top[:, None] + row[None, :]).to(tl.uint32) < height
    inside &= (left[:, None] + begin[None, :]).to(tl.uint32) < width
    inside &= (line < LINES)[None, :]
    if LAST and REAL < SIDE:
        inside &= (along < REAL)[None, :]
    within = channel * c_stride + row * y_stride + column * x_stride
    x = tl.load(features + (offsets[:, None] + within[None, :]), mask=inside, other=0.0).to(tl.float32)
    return x, ((along < REAL) & (line < LINES))[None, :]


@triton.jit
def product(features, mean, rstd, weight, offset, out, tokens, count, columns, height, width,
            b_stride, c_stride, y_stride, x_stride, eps,
            CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
            LAST: tl.constexpr, SIDE: tl.constexpr, PAIR: tl.constexpr, LENGTH: tl.constexpr,
            OUT: tl.constexpr, PRECISION: tl.constexpr,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Mean, deviation and product of ROWS windows; the windows are looked at three times, and lie in the cache."""
    across = tl.cdiv(OUT, COLUMNS)
    first = (tl.program_id(0) // across).to(tl.int64) * ROWS
    n = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.arange(0, ROWS)
    real = first + token < tokens
    image, offsets, top, left = _place(first, tokens, count, columns, b_stride, y_stride, x_stride,
                                       STRIDE, PADDING, ROWS)  # fmt: skip
    features += image
    # The mean is taken of what is left over one number of the window: so that of a flat window is exact.
    MIDDLE: tl.constexpr = KERNEL // 2
    middle = ((top + MIDDLE).to(tl.uint32) < height) & ((left + MIDDLE).to(tl.uint32) < width)
    pivot = tl.load(features + offsets + MIDDLE * (y_stride + x_stride), mask=middle, other=0.0).to(tl.float32)
    NUMBERS: tl.constexpr = CHANNELS * KERNEL * KERNEL
    sums = tl.zeros((ROWS, DEPTH), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        x, own = _gather(features, offsets, top, left, start + tl.arange(0, DEPTH), height, width,
                         c_stride, y_stride, x_stride, CHANNELS, KERNEL, LAST, SIDE, PAIR)  # fmt: skip
        sums += tl.where(own, x - pivot[:, None], 0.0)
    centre = pivot + tl.sum(sums, 1) / NUMBERS
    squares = tl.zeros((ROWS, DEPTH), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        x, own = _gather(features, offsets, top, left, start + tl.arange(0, DEPTH), height, width,
                         c_stride, y_stride, x_stride, CHANNELS, KERNEL, LAST, SIDE, PAIR)  # fmt: skip
        rest = tl.where(own, x - centre[:, None], 0.0)
        squares += rest * rest
    scale = 1.0 / tl.sqrt_rn(tl.sum(squares, 1) / NUMBERS + eps)
    if tl.program_id(0) % across == 0:
        tl.store(mean + first + token, centre, mask=real)
        tl.store(rstd + first + token, scale, mask=real)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x, own = _gather(features, offsets, top, left, k, height, width,
                         c_stride, y_stride, x_stride, CHANNELS, KERNEL, LAST, SIDE, PAIR)  # fmt: skip
        normed = tl.where(own, (x - centre[:, None]) * scale[:, None], 0.0).to(weight.dtype.element_ty)
        w = tl.load(weight + k[:, None] * OUT + n[None, :], mask=(k < LENGTH)[:, None] & (n < OUT)[None, :], other=0.0)
        total = tl.dot(normed, w, total, input_precision=PRECISION)
    total += tl.load(offset + n, mask=n < OUT, other=0.0)[None, :]
    place = out + first * OUT + (token[:, None] * OUT + n[None, :])
    tl.store(place, total.to(out.dtype.element_ty), mask=real[:, None] & (n < OUT)[None, :])


@triton.jit
def correlation(grad, features, mean, rstd, parts, tokens, count, columns, height, width,
                b_stride, c_stride, y_stride, x_stride, part_length,
                CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                LAST: tl.constexpr, SIDE: tl.constexpr, PAIR: tl.constexpr, LENGTH: tl.constexpr,
                OUT: tl.constexpr, PRECISION: tl.constexpr,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """A part's sum of x^ u^T: a tile of (LENGTH, OUT), windows of the part summed over DEPTH at a time."""
    across, down = tl.cdiv(OUT, COLUMNS), tl.cdiv(LENGTH, ROWS)
    n = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    k = (tl.program_id(0) // across % down) * ROWS + tl.arange(0, ROWS)
    part = (tl.program_id(0) // (across * down)).to(tl.int64)
    begin = part * part_length
    features += begin // count * b_stride
    token = tl.arange(0, DEPTH)
    # Image (counted from the part's first), row and column move on by sums: a division would cost more than a product.
    within, rows = (begin % count).to(tl.int32) + token, count // columns
    image, row, column = within // count, within % count // columns, within % columns
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(begin, begin + part_length, DEPTH):
        real = first + token < tokens
        top, left = row * STRIDE - PADDING, column * STRIDE - PADDING
        offsets = image * b_stride + top * y_stride + left * x_stride
        # Behind the last window lies nothing.
        x, own = _gather(features, offsets, tl.where(real, top, height), left, k, height, width,
                         c_stride, y_stride, x_stride, CHANNELS, KERNEL, LAST, SIDE, PAIR)  # fmt: skip
        centre = tl.load(mean + first + token, mask=real, other=0.0)
        scale = tl.load(rstd + first + token, mask=real, other=0.0)
        u = tl.load(grad + first * OUT + (token[:, None] * OUT + n[None, :]),
                    mask=real[:, None] & (n < OUT)[None, :], other=0.0)  # fmt: skip
        normed = tl.where(own, (x - centre[:, None]) * scale[:, None], 0.0).to(u.dtype)
        total = tl.dot(tl.trans(normed), u, total, input_precision=PRECISION)
        column += DEPTH % columns
        over = (column >= columns).to(tl.int32)
        column -= over * columns
        row += DEPTH % count // columns + over
        over = (row >= rows).to(tl.int32)
        row -= over * rows
        image += DEPTH // count + over
    place = parts + part * LENGTH * OUT + k[:, None] * OUT + n[None, :]
    tl.store(place, total, mask=(k < LENGTH)[:, None] & (n < OUT)[None, :])


@triton.jit
def to_features(grad, features, mean, rstd, shift, slope, weight, out, pixels, tall, wide, rows, columns,
                height, width, b_stride, c_stride, y_stride, x_stride, ob_stride, oc_stride, oy_stride, ox_stride,
                CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
                LAST: tl.constexpr, SIDE: tl.constexpr, PAIR: tl.constexpr, LENGTH: tl.constexpr,
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
            if LAST:
                k = ((phase_y + down * STRIDE) * KERNEL + phase_x + right * STRIDE) * SIDE + c
            else:
                k = (c * KERNEL + phase_y + down * STRIDE) * SIDE + phase_x + right * STRIDE
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
