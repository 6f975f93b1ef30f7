"""Triton kernels of performer attention; `performer_passes` has the formulas, `performer_triton` launches them.

Grid: (image, split). A program takes one split of an image's tokens, `span` of them, `BLOCK` at a time. Sums over an
image's tokens leave a program as a part, and are joined in a second step: no atomics, so the same bits every time.
Everything is computed in float32. Sides are padded to powers of two by masks.

Products of float32 numbers on tensor cores are sums of products of their parts in bfloat16. With EXACT the inputs are
bfloat16 themselves, one part, so that half of the products are enough. PART is what parts are multiplied as.
"""

# mypy: ignore-errors
# Triton compiles this text: it is no Python for a type checker.
import triton
import triton.language as tl


@triton.jit
def key_kernel(
    keys, values, features, contexts, sums, maxima,
    key_image, key_token, value_image, value_token,
    tokens, span, count, dim, width,
    epsilon: tl.constexpr, LARGEST: tl.constexpr,
    BLOCK: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Parts of S and z of one image, relative to the largest exponent so far, as flash attention keeps its sums."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, d, e = tl.arange(0, M), tl.arange(0, D), tl.arange(0, E)
    turned = _turned_features(features, m, d, count, dim)
    keys, values = keys + image * key_image, values + image * value_image
    maximum = -float("inf")
    context, total = tl.zeros((M, E), tl.float32), tl.zeros((M,), tl.float32)
    end = min(split * span + span, tokens)
    for first in range(split * span, end, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        u = _rows(keys, rows, key_token, d, end, dim)
        logs = _half_by_wide(u, turned, PRECISION, EXACT, PART) - 0.5 * _squares(u)[:, None]  # (BLOCK, M)
        logs = tl.where((rows[:, None] < end) & (m[None, :] < count), logs, -float("inf"))
        larger = tl.maximum(maximum, tl.max(tl.max(logs, 1), 0))
        phi = tl.exp(logs - larger)
        shrink = tl.exp(maximum - larger)
        v = _rows(values, rows, value_token, e, end, width)
        context = context * shrink + _wide_by_half(tl.trans(phi), v, PRECISION, EXACT, PART)
        total = total * shrink + tl.sum(phi, 0)
        maximum = larger
    part = image * tl.num_programs(1) + split
    _store_sums(contexts, sums, part, context, total, m, e, count, width)
    tl.store(maxima + part, maximum)


@triton.jit
def join_kernel(
    context_parts, sum_parts, maximum_parts, contexts, sums, maxima,
    splits, count, width,
    M: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """S, z and the largest exponent of each image, from the parts of `key_kernel`. Grid: (image,)."""
    image = tl.program_id(0).to(tl.int64)
    m, e = tl.arange(0, M), tl.arange(0, E)
    maximum = tl.load(maximum_parts + image * splits)
    for split in range(1, splits):
        maximum = tl.maximum(maximum, tl.load(maximum_parts + image * splits + split))
    context, total = tl.zeros((M, E), tl.float32), tl.zeros((M,), tl.float32)
    for split in range(splits):
        part = image * splits + split
        shrink = tl.exp(tl.load(maximum_parts + part) - maximum)
        context += shrink * _context(context_parts, part, m, e, count, width)
        total += shrink * tl.load(sum_parts + part * count + m, m < count, 0.0)
    _store_sums(contexts, sums, image, context, total, m, e, count, width)
    tl.store(maxima + image, maximum)


@triton.jit
def query_kernel(
    queries, features, contexts, sums, maxima, answers,
    query_image, query_token, tokens, span, count, dim, width,
    epsilon: tl.constexpr, LARGEST: tl.constexpr,
    BLOCK: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """The answers to one split of an image's queries."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, d, e = tl.arange(0, M), tl.arange(0, D), tl.arange(0, E)
    turned = _turned_features(features, m, d, count, dim)
    context = _context(contexts, image, m, e, count, width)
    total = tl.load(sums + image * count + m, m < count, 0.0)
    floor = tl.load(maxima + image)
    queries, answers = queries + image * query_image, answers + image * tokens * width
    end = min(split * span + span, tokens)
    for first in range(split * span, end, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        u = _rows(queries, rows, query_token, d, end, dim)
        shares = _shares(u, turned, total, floor, m, count, epsilon, LARGEST, PRECISION, EXACT, PART)
        answer = tl.dot(shares, context, input_precision=PRECISION)
        _store_rows(answers, rows, width, e, end, width, answer)


@triton.jit
def query_backward_kernel(
    grads, queries, features, contexts, sums, maxima, grad_queries, grad_contexts, grad_sums,
    grad_image, grad_token, query_image, query_token, tokens, span, count, dim, width,
    epsilon: tl.constexpr, LARGEST: tl.constexpr,
    BLOCK: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients of one split of an image's queries, and its parts of the gradients of S and z."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, d, e = tl.arange(0, M), tl.arange(0, D), tl.arange(0, E)
    turned = _turned_features(features, m, d, count, dim)
    context = _context(contexts, image, m, e, count, width)
    total = tl.load(sums + image * count + m, m < count, 0.0)
    floor = tl.load(maxima + image)
    grads, queries = grads + image * grad_image, queries + image * query_image
    grad_queries = grad_queries + image * tokens * dim
    grad_context, grad_total = tl.zeros((M, E), tl.float32), tl.zeros((M,), tl.float32)
    end = min(split * span + span, tokens)
    for first in range(split * span, end, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        u = _rows(queries, rows, query_token, d, end, dim)
        dy = _rows(grads, rows, grad_token, e, end, width)
        shares = _shares(u, turned, total, floor, m, count, epsilon, LARGEST, PRECISION, EXACT, PART)
        logs = _half_by_wide(dy, tl.trans(context), PRECISION, EXACT, PART)  # (BLOCK, M)
        mean = tl.sum(shares * logs, 1)
        grad_context += _wide_by_half(tl.trans(shares), dy, PRECISION, EXACT, PART)
        grad_total -= tl.sum(shares * mean[:, None], 0)
        logs = shares * (logs - mean[:, None] * total[None, :])
        du = tl.dot(logs, tl.trans(turned), input_precision=PRECISION) - tl.sum(logs, 1)[:, None] * u.to(tl.float32)
        _store_rows(grad_queries, rows, dim, d, end, dim, du)
    part = image * tl.num_programs(1) + split
    _store_sums(grad_contexts, grad_sums, part, grad_context, grad_total, m, e, count, width)


@triton.jit
def key_backward_kernel(
    keys, values, features, maxima, grad_contexts, grad_sums, grad_keys, grad_values,
    key_image, key_token, value_image, value_token, tokens, span, count, dim, width,
    epsilon: tl.constexpr, LARGEST: tl.constexpr,
    BLOCK: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients of one split of an image's keys and values."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, d, e = tl.arange(0, M), tl.arange(0, D), tl.arange(0, E)
    turned = _turned_features(features, m, d, count, dim)
    grad_context = _context(grad_contexts, image, m, e, count, width)
    grad_total = tl.load(grad_sums + image * count + m, m < count, 0.0)
    floor = tl.load(maxima + image)
    keys, values = keys + image * key_image, values + image * value_image
    grad_keys, grad_values = grad_keys + image * tokens * dim, grad_values + image * tokens * width
    end = min(split * span + span, tokens)
    for first in range(split * span, end, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        u = _rows(keys, rows, key_token, d, end, dim)
        v = _rows(values, rows, value_token, e, end, width)
        logs = _half_by_wide(u, turned, PRECISION, EXACT, PART) - 0.5 * _squares(u)[:, None]  # (BLOCK, M)
        logs = tl.where((rows[:, None] < end) & (m[None, :] < count), logs, -float("inf"))
        phi = tl.exp(logs - floor)
        dv = tl.dot(phi, grad_context, input_precision=PRECISION)
        slopes = _half_by_wide(v, tl.trans(grad_context), PRECISION, EXACT, PART) + grad_total[None, :]
        logs = phi * slopes
        du = tl.dot(logs, tl.trans(turned), input_precision=PRECISION) - tl.sum(logs, 1)[:, None] * u.to(tl.float32)
        _store_rows(grad_values, rows, width, e, end, width, dv)
        _store_rows(grad_keys, rows, dim, d, end, dim, du)


@triton.jit
def _shares(
    u, turned, total, floor, m, count,
    epsilon: tl.constexpr, LARGEST: tl.constexpr,
    PRECISION: tl.constexpr, EXACT: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """phi(q) over its normaliser, (BLOCK, M). |q|^2 is the same for all features, so only the epsilon feels it."""
    logs = _half_by_wide(u, turned, PRECISION, EXACT, PART)
    logs = tl.where(m[None, :] < count, logs, -float("inf"))
    maximum = tl.max(logs, 1)
    phi = tl.exp(logs - maximum[:, None])
    scale = tl.exp(tl.minimum(0.5 * _squares(u) - maximum - floor, LARGEST))
    return phi / (tl.sum(phi * total[None, :], 1) + epsilon * count * scale)[:, None]


@triton.jit
def _half_by_wide(half, wide, PRECISION: tl.constexpr, EXACT: tl.constexpr, PART: tl.constexpr):
    """An input as it was loaded times numbers in float32."""
    if EXACT:
        high, middle, low = _parts(wide, PART)
        half = half.to(PART)
        small = tl.dot(half, middle, tl.dot(half, low, input_precision="ieee"), input_precision="ieee")
        return tl.dot(half, high, small, input_precision="ieee")
    return tl.dot(half.to(tl.float32), wide, input_precision=PRECISION)


@triton.jit
def _wide_by_half(wide, half, PRECISION: tl.constexpr, EXACT: tl.constexpr, PART: tl.constexpr):
    """Numbers in float32 times an input as it was loaded."""
    if EXACT:
        high, middle, low = _parts(wide, PART)
        half = half.to(PART)
        small = tl.dot(middle, half, tl.dot(low, half, input_precision="ieee"), input_precision="ieee")
        return tl.dot(high, half, small, input_precision="ieee")
    return tl.dot(wide, half.to(tl.float32), input_precision=PRECISION)


@triton.jit
def _parts(wide, PART: tl.constexpr):
    """Three numbers of bfloat16 each, whose sum is the float32 number except for its last bit."""
    high = wide.to(tl.bfloat16)
    rest = wide - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
    return high.to(PART), middle.to(PART), low.to(PART)


@triton.jit
def _squares(u):
    wide = u.to(tl.float32)
    return tl.sum(wide * wide, 1)


@triton.jit
def _turned_features(features, m, d, count, dim):
    """W^T, (D, M); zero where it is padded."""
    mask = (d[:, None] < dim) & (m[None, :] < count)
    return tl.load(features + m[None, :] * dim + d[:, None], mask, 0.0).to(tl.float32)


@triton.jit
def _context(contexts, part, m, e, count, width):
    mask = (m[:, None] < count) & (e[None, :] < width)
    return tl.load(contexts + part * count * width + m[:, None] * width + e[None, :], mask, 0.0)


@triton.jit
def _store_sums(contexts, sums, part, context, total, m, e, count, width):
    mask = (m[:, None] < count) & (e[None, :] < width)
    tl.store(contexts + part * count * width + m[:, None] * width + e[None, :], context, mask)
    tl.store(sums + part * count + m, total, m < count)


@triton.jit
def _rows(pointer, rows, token_stride, columns, end, width):
    """Tokens (BLOCK, width); zero where they are padded."""
    mask = (rows[:, None] < end) & (columns[None, :] < width)
    return tl.load(pointer + rows[:, None] * token_stride + columns[None, :], mask, 0.0)


@triton.jit
def _store_rows(pointer, rows, token_stride, columns, end, width, tile):
    mask = (rows[:, None] < end) & (columns[None, :] < width)
    tl.store(pointer + rows[:, None] * token_stride + columns[None, :], tile, mask)
