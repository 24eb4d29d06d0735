# SPDX-License-Identifier: Apache-2.0

"""Triton kernels that step by the records of a device table. ``device_table.h`` defines the records.

One body serves two uses. A batch reads the number of each item's record from device memory, and replaces it by the number of the
next record. A step of one record has the caller's tensors as slots.

The bits of `USES`, a constant of the compilation, name the coefficients that the records have. In a batch, a record may lack some
of them: these coefficients are 0, and their tensors aren't read.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

RECORD_DOUBLES: Any = tl.constexpr(128)
"""The size of a record, in doubles."""
FIRST_COEFFICIENT: Any = tl.constexpr(16)
"""The offset of the coefficients in a record, in doubles: 4 for p, then 10 for each output."""
FIRST_PART: Any = tl.constexpr(120)
"""The offset of the coefficients' parts in a record, in floats."""

TWO_PARTS, SHORTENED, DOUBLE, SINGLE = 0, 1, 2, 3
"""The kinds of sums: float32 with coefficients of two floats, float64 with coefficients of 29 bits, float64, float32."""
_TWO_PARTS, _SHORTENED, _DOUBLE, _SINGLE = (tl.constexpr(kind) for kind in (TWO_PARTS, SHORTENED, DOUBLE, SINGLE))

BINS = 65536
"""The number of a histogram's bins: one for each value of 16 bits."""
_BINS = tl.constexpr(BINS)
_GREATEST_KEY = tl.constexpr(2**63 - 1)
_IS_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


# ---- Records


@triton.jit
def _floats(record):
    """The record as 32-bit floats."""
    return record.to(tl.pointer_type(tl.float32), bitcast=True)


@triton.jit
def _integers(record):
    """The record as 32-bit integers."""
    return record.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def _in_parts(c):
    """A double as the sum of two floats."""
    high = c.to(tl.float32)
    return high, (c - high.to(tl.float64)).to(tl.float32)


@triton.jit
def _coefficient(
    record, PLACE: tl.constexpr, USES: tl.constexpr, BIT: tl.constexpr, factor, SCALES: tl.constexpr, SUMS: tl.constexpr
):
    """A coefficient in two parts, times a factor if `SCALES`. The second part is 0 except with `TWO_PARTS`."""
    zero = tl.full([], 0.0, tl.float64 if SUMS == _SHORTENED or SUMS == _DOUBLE else tl.float32)
    low = zero
    if (USES >> BIT) & 1 == 0:
        high = zero
    elif SUMS == _TWO_PARTS and not SCALES:
        parts = _floats(record) + FIRST_PART + 2 * PLACE
        high = tl.load(parts)
        low = tl.load(parts + 1)
    else:
        c = tl.load(record + FIRST_COEFFICIENT + PLACE)
        if SCALES:
            c = c * factor
        if SUMS == _TWO_PARTS:
            high, low = _in_parts(c)
        elif SUMS == _SHORTENED:
            # Coefficients are rounded to 29 bits, to nearest even, so their products with floats are exact.
            bits = c.to(tl.int64, bitcast=True)
            rounded = (bits + 0x7FFFFF + ((bits >> 24) & 1)) & -0x1000000
            is_finite = ((bits >> 52) & 0x7FF) != 0x7FF
            high = tl.where(is_finite, rounded, bits).to(tl.float64, bitcast=True)
        elif SUMS == _DOUBLE:
            high = c
        else:
            high = c.to(tl.float32)
    return high, low


@triton.jit
def _column(record, TERM: tl.constexpr, USES: tl.constexpr, factor, SCALES: tl.constexpr, SUMS: tl.constexpr):
    """The coefficients of a tensor in the four outputs and in p."""
    a, a_low = _coefficient(record, 4 + TERM, USES, TERM, factor, SCALES, SUMS)
    b, b_low = _coefficient(record, 14 + TERM, USES, 10 + TERM, factor, SCALES, SUMS)
    c, c_low = _coefficient(record, 24 + TERM, USES, 20 + TERM, factor, SCALES, SUMS)
    d, d_low = _coefficient(record, 34 + TERM, USES, 30 + TERM, factor, SCALES, SUMS)
    if TERM < 3:
        p, p_low = _coefficient(record, TERM, USES, 40 + TERM, factor, SCALES, SUMS)
    else:
        p = tl.zeros_like(a)
        p_low = p
    return a, a_low, b, b_low, c, c_low, d, d_low, p, p_low


@triton.jit
def _greatest(column):
    """The greatest magnitude of a tensor's coefficients; 0 if the tensor isn't read."""
    outputs = tl.maximum(tl.maximum(tl.abs(column[0]), tl.abs(column[2])), tl.maximum(tl.abs(column[4]), tl.abs(column[6])))
    return tl.maximum(outputs, tl.abs(column[8]))


@triton.jit
def _where(inside, number):
    """The mask `inside` if a number isn't 0, else a false mask."""
    return inside & (tl.broadcast_to(number, inside.shape) != 0)


@triton.jit
def _read(inside, column, EXACT: tl.constexpr):
    """The mask of a tensor's elements to read: false if the record has no coefficient for the tensor."""
    if EXACT:
        mask = inside
    else:
        mask = _where(inside, _greatest(column))
    return mask


# ---- Sums


@triton.jit
def _plus(total, t, high, low, USES: tl.constexpr, BIT: tl.constexpr, EXACT: tl.constexpr, SUMS: tl.constexpr):
    """A sum with one more term."""
    if (USES >> BIT) & 1 == 0:
        result = total
    else:
        if SUMS == _TWO_PARTS:
            result = tl.fma(t, high, tl.fma(t, low, total))
        else:
            result = total + t * high
        if not EXACT:
            result = tl.where(high != 0, result, total)  # An infinity times 0 would be a NaN.
    return result


@triton.jit
def _add(sums, t, column, TERM: tl.constexpr, USES: tl.constexpr, EXACT: tl.constexpr, SUMS: tl.constexpr):
    """The sums of the four outputs and of p, with a tensor's terms added."""
    a = _plus(sums[0], t, column[0], column[1], USES, TERM, EXACT, SUMS)
    b = _plus(sums[1], t, column[2], column[3], USES, 10 + TERM, EXACT, SUMS)
    c = _plus(sums[2], t, column[4], column[5], USES, 20 + TERM, EXACT, SUMS)
    d = _plus(sums[3], t, column[6], column[7], USES, 30 + TERM, EXACT, SUMS)
    if TERM < 3:
        p = _plus(sums[4], t, column[8], column[9], USES, 40 + TERM, EXACT, SUMS)
    else:
        p = sums[4]
    return a, b, c, d, p


@triton.jit
def _wide(t, SUMS: tl.constexpr):
    """Elements in the type of the sums. The conversion is exact."""
    if SUMS == _SHORTENED or SUMS == _DOUBLE:
        return t.to(tl.float64)
    else:
        return t.to(tl.float32)


@triton.jit
def _as_prediction(p, SUMS: tl.constexpr):
    """A sum in p's type: float64 with `DOUBLE` sums, else float32."""
    if SUMS == _DOUBLE:
        return p
    else:
        return p.to(tl.float32)


@triton.jit
def _narrowed(t, TYPE: tl.constexpr):
    """Floats rounded to a type, to nearest even. Triton's interpreter would truncate them to bfloat16."""
    if _IS_INTERPRETED and TYPE == tl.bfloat16:
        bits = t.to(tl.int32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        t = tl.where(t == t, near, bits | 0x400000).to(tl.float32, bitcast=True)
    return t.to(TYPE)


@triton.jit
def _rounded(t, TYPE: tl.constexpr):
    """Numbers rounded once to a type."""
    if t.dtype == tl.float64 and (TYPE == tl.float16 or TYPE == tl.bfloat16):
        # The first rounding is to odd. Its last bit tells the second rounding on which side of a tie the number is.
        near = t.to(tl.float32)
        back = near.to(tl.float64)
        bits = near.to(tl.int32, bitcast=True)
        bits = tl.where(tl.abs(back) > tl.abs(t), bits - 1, bits)
        odd = tl.where(back == t, bits, bits | 1)
        return _narrowed(odd.to(tl.float32, bitcast=True), TYPE)
    elif TYPE == tl.bfloat16:
        return _narrowed(t, TYPE)
    else:
        return t.to(TYPE)


# ---- Addresses


@triton.jit
def _place(index, sizes, strides):
    """The offset of element `index`, counted with the last axis fastest. Without strides, the offset is `index`."""
    if strides is None:
        offset = index
    else:
        offset = index * 0
        rest = index
        for axis in tl.static_range(len(sizes)):
            size = sizes[axis]
            next_rest = rest // size
            offset += (rest - next_rest * size) * strides[axis]
            rest = next_rest
    return offset


@triton.jit
def _load(tensor, at, mask, SUMS: tl.constexpr):
    return _wide(tl.load(tensor + at, mask=mask, other=0.0), SUMS)


# ---- Noise


@triton.jit
def _exponential(x):
    """exp(x) in float64: 2^n times a polynomial of degree 13. The library's exp on the host has the same operations."""
    bounded = tl.where(x < -746.0, -746.0, tl.where(x > 710.0, 710.0, x))
    shift = 6755399441055744.0  # Adding 1.5 * 2^52 rounds to an integer, and leaves it in the last bits.
    n = (bounded * 1.4426950408889634 + shift) - shift
    half = n * 0.5 + shift
    other = n - (half - shift) + shift
    r = (bounded - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    p = tl.full(x.shape, 1.0 / 6227020800, tl.float64)
    p = p * r + 1.0 / 479001600
    p = p * r + 1.0 / 39916800
    p = p * r + 1.0 / 3628800
    p = p * r + 1.0 / 362880
    p = p * r + 1.0 / 40320
    p = p * r + 1.0 / 5040
    p = p * r + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = p * (r * r) + r
    first = ((half.to(tl.int64, bitcast=True) + 1023) << 52).to(tl.float64, bitcast=True)
    second = ((other.to(tl.int64, bitcast=True) + 1023) << 52).to(tl.float64, bitcast=True)
    return (p + 1.0) * first * second


@triton.jit
def _scaled_noise(z, v, record, SUMS: tl.constexpr):
    """The noise times the record's factor, a function of the model's variance; the noise itself without a factor."""
    kind = tl.load(_integers(record) + 16)
    offset = tl.load(record + 5)
    slope = tl.load(record + 6)
    if SUMS == _TWO_PARTS or SUMS == _SINGLE:
        root = tl.sqrt_rn(tl.where(v < 0, 0.0, v))
        power = tl.exp(offset.to(tl.float32) + slope.to(tl.float32) * v)
        result = tl.where(kind == 1, root * z, tl.where(kind == 2, power * z, z))
    else:
        root = tl.sqrt(tl.where(v < 0, 0.0, v))
        power = _exponential(offset + slope * v)
        result = tl.where(kind == 1, root * z, power * z)
        if SUMS == _SHORTENED:
            result = result.to(tl.float32).to(tl.float64)
        result = tl.where(kind == 0, z, result)
    return result


@triton.jit
def _normals(seed, offset, index, n, max_blocks, CUDA: tl.constexpr):
    """Elements of ``torch.randn(n, device="cuda")`` from a generator at an offset, drawn by at most `max_blocks` blocks."""
    threads = tl.minimum((n + 255) // 256, max_blocks) * 256
    group = index // threads
    thread = index - group * threads
    part = group & 3
    counter = (offset >> 2) + (group >> 2)
    none = tl.zeros(index.shape, tl.uint32)
    low, high = none + counter.to(tl.uint32), none + (counter >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, thread.to(tl.uint32), none)
    first = tl.where(part < 2, w0, w2).to(tl.float32)
    second = tl.where(part < 2, w1, w3).to(tl.float32)
    u = tl.fma(first, 2.3283064365386963e-10, 1.1641532182693481e-10)  # 2^-32, 2^-33
    v = tl.fma(second, 1.4629180792671596e-09, 7.314590396335798e-10)  # 2 pi times the constants above, with float32's 2 pi
    is_sine = (part & 1) == 0
    if CUDA:
        # The instructions of cuRAND, for the same bits.
        radius = libdevice.sqrt_rn(-2.0 * libdevice.log(u))
        wave = tl.where(is_sine, libdevice.fast_sinf(v), libdevice.fast_cosf(v))
    else:
        radius = tl.sqrt_rn(-2.0 * tl.log(u))
        wave = tl.where(is_sine, tl.sin(v), tl.cos(v))
    return radius * wave + 0.0


@triton.jit
def _drawn(seeds, offsets, item, record, index, n, max_blocks, TYPE: tl.constexpr, SUMS: tl.constexpr, CUDA: tl.constexpr):
    """The noise of an item's step: the last tensor that the item's generator draws for the step, rounded to a type."""
    draws = tl.load(_integers(record) + 17)
    rounds = _rounds(n, max_blocks)
    offset = tl.load(offsets + item) + 4 * rounds * tl.maximum(draws - 1, 0)
    return _wide(_rounded(_normals(tl.load(seeds + item), offset, index, n, max_blocks, CUDA), TYPE), SUMS)


@triton.jit
def _rounds(n, max_blocks):
    """The number of counters that each thread takes for n normal numbers."""
    threads = (tl.minimum((n + 255) // 256, max_blocks) * 256).to(tl.int64)
    return (n - 1) // (4 * threads) + 1


# ---- The prediction


@triton.jit
def _clamped(p, record, threshold, CLAMPS: tl.constexpr):
    """p after the record's clamp. CLAMPS: bit 1 if a record's clamp may be a range, bit 2 if it may be a threshold."""
    if CLAMPS != 0:
        clamp = tl.load(_integers(record) + 15)
        limit = tl.load(record + 2)
        if CLAMPS & 4:
            limit = tl.where(clamp == 2, threshold, limit)
        limit = tl.where(clamp == 0, float("inf"), limit).to(p.dtype)
        p = tl.where(p < -limit, -limit, p)
        p = tl.where(p > limit, limit, p)
        if CLAMPS & 4:
            divisor = tl.where(clamp == 2, limit, 1.0).to(p.dtype)
            if p.dtype == tl.float32:
                p = tl.div_rn(p, divisor)
            else:
                p = p / divisor
    return p


@triton.jit
def _factors(scale, scale_stride, item):
    """The factors of the conditional and the unconditional model output."""
    if scale is None:
        conditional = tl.full([], 1.0, tl.float64)
    else:
        conditional = tl.load(scale + item * scale_stride).to(tl.float64)
    return conditional, 1.0 - conditional


@triton.jit
def _record_of(table, rows, item):
    """An item's record. Without rows, the table's first record."""
    if rows is None:
        record = table
    else:
        record = table + tl.load(rows + item).to(tl.int64) * RECORD_DOUBLES
    return record


@triton.jit
def _begun(
    record,
    guidance_scale,
    scale_stride,
    tensors,
    item_strides,
    sizes,
    strides,
    item,
    index,
    inside,
    USES: tl.constexpr,
    EXACT: tl.constexpr,
    SUMS: tl.constexpr,
):
    """The sums of the four outputs and of p over their first terms: the sample's and the model outputs'."""
    IS_GUIDED: tl.constexpr = guidance_scale is not None
    # Guidance may make a coefficient 0.
    IS_READ: tl.constexpr = EXACT and not IS_GUIDED
    conditional, unconditional = _factors(guidance_scale, scale_stride, item)
    none = _wide(tl.full(index.shape, -0.0, tl.float32), SUMS)
    sums = none, none, none, none, none  # Sums begin with -0: adding it changes no number.
    if USES & 0x10040100401 != 0:
        column = _column(record, 0, USES, 1.0, False, SUMS)
        mask = _read(inside, column, EXACT)
        t = _load(tensors[0], item * item_strides[0] + _place(index, sizes, strides[0]), mask, SUMS)
        sums = _add(sums, t, column, 0, USES, EXACT, SUMS)
    if USES & 0x20080200802 != 0:
        column = _column(record, 1, USES, conditional, IS_GUIDED, SUMS)
        mask = _read(inside, column, IS_READ)
        t = _load(tensors[1], item * item_strides[1] + _place(index, sizes, strides[1]), mask, SUMS)
        sums = _add(sums, t, column, 1, USES, IS_READ, SUMS)
        if IS_GUIDED:
            column = _column(record, 1, USES, unconditional, True, SUMS)
            mask = _read(inside, column, False)
            t = _load(tensors[2], item * item_strides[2] + _place(index, sizes, strides[2]), mask, SUMS)
            sums = _add(sums, t, column, 1, USES, False, SUMS)
    return sums


# ---- Kernels


@triton.jit
def step_kernel(
    table,
    rows,
    counters,
    timesteps,
    input_scales,
    seeds,
    offsets,
    thresholds,
    guidance_scale,
    scale_stride,
    tensors,
    item_strides,
    sizes,
    strides,
    slot_stride,
    n,
    max_blocks,
    USES: tl.constexpr,
    READS: tl.constexpr,
    CLAMPS: tl.constexpr,
    SCALES_NOISE: tl.constexpr,
    EXACT: tl.constexpr,
    SUMS: tl.constexpr,
    NOISE_TYPE: tl.constexpr,
    CUDA: tl.constexpr,
    LARGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A step of batch items, on a grid [blocks of an item, items].

    guidance_scale  [items] the guidance scales; None: steps aren't guided
    scale_stride    the stride of the guidance scales; 0: one scale for all items
    tensors         x, the conditional e, the unconditional e, v, z, six slots, y, two stores, the report, the next model input;
                    None: absent. In a batch, the first slot is the tensor of all slots; the other slots and the stores are absent.
    item_strides    the stride of the items in each tensor
    sizes           the sizes of an item's axes, the last axis first; None: each item is contiguous, in the order of its elements
    strides         the strides of an item's axes in each tensor, the last axis first
    slot_stride     the stride of the slots in the tensor of all slots
    """
    n = tl.to_tensor(n)
    item = tl.program_id(1).to(tl.int64)
    record = _record_of(table, rows, item)
    block = tl.program_id(0)
    if LARGE:
        block = block.to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    IS_BATCH: tl.constexpr = rows is not None

    sums = _begun(
        record, guidance_scale, scale_stride, tensors, item_strides, sizes, strides, item, index, inside, USES, EXACT, SUMS
    )
    if USES & 0x40100401004 != 0:
        column = _column(record, 2, USES, 1.0, False, SUMS)
        mask = _read(inside, column, EXACT)
        if tensors[4] is None:
            t = _wide(tl.zeros([BLOCK], tl.float32), SUMS)
            if _greatest(column) != 0:
                t = _drawn(seeds, offsets, item, record, index, n, max_blocks, NOISE_TYPE, SUMS, CUDA)
        else:
            t = _load(tensors[4], item * item_strides[4] + _place(index, sizes, strides[4]), mask, SUMS)
        if SCALES_NOISE:
            factor = tl.load(_integers(record) + 16)
            at = item * item_strides[3] + _place(index, sizes, strides[3])
            t = _scaled_noise(t, _load(tensors[3], at, _where(mask, factor), SUMS), record, SUMS)
        sums = _add(sums, t, column, 2, USES, EXACT, SUMS)
    for slot in tl.static_range(READS):
        column = _column(record, 3 + slot, USES, 1.0, False, SUMS)
        mask = _read(inside, column, EXACT)
        if IS_BATCH:
            number = tl.maximum(tl.load(_integers(record) + 20 + slot), 0).to(tl.int64)
            at = item * item_strides[5] + number * slot_stride + _place(index, sizes, strides[5])
            t = _load(tensors[5], at, mask, SUMS)
        else:
            at = item * item_strides[5 + slot] + _place(index, sizes, strides[5 + slot])
            t = _load(tensors[5 + slot], at, mask, SUMS)
        sums = _add(sums, t, column, 3 + slot, USES, EXACT, SUMS)
    if USES & 0x8020080200 != 0:
        threshold = float("inf")
        if CLAMPS & 4:
            threshold = tl.load(thresholds + item)
        p = _clamped(_as_prediction(sums[4], SUMS), record, threshold, CLAMPS)
        sums = _add(sums, _wide(p, SUMS), _column(record, 9, USES, 1.0, False, SUMS), 9, USES, EXACT, SUMS)

    following = 0
    if IS_BATCH:
        following = tl.load(_integers(record) + 14)
    at = item * item_strides[11] + _place(index, sizes, strides[11])
    y = _rounded(sums[0], tensors[11].dtype.element_ty)
    tl.store(tensors[11] + at, y, mask=inside)
    for store in tl.static_range(2):
        if (USES >> (10 + 10 * store)) & 0x3FF != 0:
            if IS_BATCH:
                number = tl.load(_integers(record) + 26 + store)
                mask = _where(inside, tl.maximum(number + 1, 0))
                at = item * item_strides[5] + tl.maximum(number, 0).to(tl.int64) * slot_stride + _place(index, sizes, strides[5])
                tl.store(tensors[5] + at, _rounded(sums[1 + store], tensors[5].dtype.element_ty), mask=mask)
            else:
                at = item * item_strides[12 + store] + _place(index, sizes, strides[12 + store])
                tl.store(tensors[12 + store] + at, _rounded(sums[1 + store], tensors[12 + store].dtype.element_ty), mask=inside)
    if tensors[14] is not None:
        at = item * item_strides[14] + _place(index, sizes, strides[14])
        tl.store(tensors[14] + at, _rounded(sums[3], tensors[14].dtype.element_ty), mask=inside)
    if IS_BATCH:
        next_record = table + following.to(tl.int64) * RECORD_DOUBLES
        if tensors[15] is not None:
            scale = tl.load(next_record + 1)
            if SUMS == _SHORTENED or SUMS == _DOUBLE:
                scaled = y.to(tl.float64) * scale
            else:
                high, low = _in_parts(scale)
                scaled = tl.fma(y.to(tl.float32), high, y.to(tl.float32) * low)
            at = item * item_strides[15] + _place(index, sizes, strides[15])
            tl.store(tensors[15] + at, _rounded(scaled, tensors[15].dtype.element_ty), mask=inside)
        # An item's last block to arrive here moves the item to the next record. All its other blocks have read this one.
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + item, 1, sem="acq_rel")
        if arrived == tl.num_programs(0) - 1:
            tl.store(counters + item, 0)
            tl.store(rows + item, following)
            tl.store(timesteps + item, tl.load(next_record).to(timesteps.dtype.element_ty))
            tl.store(input_scales + item, tl.load(next_record + 1).to(input_scales.dtype.element_ty))
            if offsets is not None:
                draws = tl.load(_integers(record) + 17)
                tl.store(offsets + item, tl.load(offsets + item) + 4 * draws * _rounds(n, max_blocks))


@triton.jit
def threshold_kernel(
    table,
    rows,
    counters,
    states,
    histograms,
    thresholds,
    guidance_scale,
    scale_stride,
    tensors,
    item_strides,
    sizes,
    strides,
    n,
    USES: tl.constexpr,
    SHIFT: tl.constexpr,
    IS_FIRST: tl.constexpr,
    EXACT: tl.constexpr,
    SUMS: tl.constexpr,
    LARGE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """A level of a radix search for the quantile of |p| in batch items, on a grid [blocks of an item, items].

    The key of |p| is its bits as an integer. Keys have the order of the numbers. Each level counts the values of the 16 bits from
    `SHIFT` on, among the keys with the prefix of the quantile's key. An item's last block to arrive then finds the value at the
    quantile's rank. It prepares histogram and state for the next level; after the last level, they are zero for the next step.

    histograms  [items, BINS]
    states      [items, 4]: the prefix of the quantile's key; the rank among the keys with this prefix; the greatest integer minus
                the least key with a greater prefix; whether any p is a NaN
    """
    n = tl.to_tensor(n)
    item = tl.program_id(1).to(tl.int64)
    record = _record_of(table, rows, item)
    is_active = tl.load(_integers(record) + 15) == 2
    block = tl.program_id(0)
    if LARGE:
        block = block.to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    inside = _where(index < n, is_active.to(tl.int32))
    PREDICTION: tl.constexpr = USES & (7 << 40)
    sums = _begun(
        record, guidance_scale, scale_stride, tensors, item_strides, sizes, strides, item, index, inside, PREDICTION, EXACT, SUMS
    )
    p = tl.abs(_as_prediction(sums[4], SUMS))
    if SUMS == _DOUBLE:
        key = p.to(tl.int64, bitcast=True)
        infinity: tl.constexpr = 0x7FF << 52
    else:
        key = p.to(tl.int32, bitcast=True).to(tl.int64)
        infinity: tl.constexpr = 0xFF << 23

    state = states + 4 * item
    histogram = histograms + item * _BINS
    prefix = tl.zeros([], tl.int64)
    counted = inside
    if IS_FIRST:
        if tl.max((inside & (key > infinity)).to(tl.int32)) != 0:
            tl.store(state + 3, 1)
    else:
        prefix = tl.load(state)
        begin = key >> (SHIFT + 16)
        counted = inside & (begin == prefix)
        if SHIFT == 0:
            above = tl.max(tl.where(inside & (begin > prefix), _GREATEST_KEY - key, 0))
            if above != 0:
                tl.atomic_max(state + 2, above, sem="relaxed")
    tl.atomic_add(histogram + ((key >> SHIFT) & (_BINS - 1)).to(tl.int32), 1, mask=counted, sem="relaxed")

    tl.debug_barrier()
    arrived = tl.atomic_add(counters + item, 1, sem="acq_rel")
    if arrived == tl.num_programs(0) - 1:
        tl.store(counters + item, 0)
        if is_active:
            ratio = tl.load(record + 3)
            if SUMS != _DOUBLE:
                ratio = ratio.to(tl.float32).to(tl.float64)
            wanted = ratio * (n - 1).to(tl.float64)
            whole = wanted.to(tl.int64)
            if IS_FIRST:
                rank = whole
            else:
                rank = tl.load(state + 1)
            # The bin of a rank is the number of bins whose cumulative count is at most the rank.
            bin = tl.zeros([], tl.int64)
            next_bin = tl.zeros([], tl.int64)
            before = tl.zeros([], tl.int64)
            total = tl.zeros([], tl.int64)
            for chunk in range(0, _BINS, CHUNK):
                at = histogram + chunk + tl.arange(0, CHUNK)
                counts = tl.load(at).to(tl.int64)
                tl.store(at, tl.zeros([CHUNK], tl.int32))
                upto = total + tl.cumsum(counts, 0)
                bin += tl.sum((upto <= rank).to(tl.int64))
                next_bin += tl.sum((upto <= rank + 1).to(tl.int64))
                before += tl.sum(tl.where(upto <= rank, counts, 0))
                total += tl.sum(counts)
            key_begin = prefix * _BINS + bin
            if SHIFT != 0:
                tl.store(state, key_begin)
                tl.store(state + 1, rank - before)
            else:
                following = tl.where(rank + 1 < total, prefix * _BINS + next_bin, _GREATEST_KEY - tl.load(state + 2))
                part = wanted - whole.to(tl.float64)
                following = tl.where(part > 0, following, key_begin)
                if SUMS == _DOUBLE:
                    first = key_begin.to(tl.float64, bitcast=True)
                    second = following.to(tl.float64, bitcast=True)
                    quantile = first + part * (second - first)
                else:
                    first = key_begin.to(tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
                    second = following.to(tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
                    quantile = (first + part * (second - first)).to(tl.float32).to(tl.float64)
                greatest = tl.load(record + 4)
                # A greatest threshold of at most 1 is always the threshold. Comparisons with a NaN are false.
                limit = tl.where(quantile < 1.0, 1.0, quantile)
                limit = tl.where((limit > greatest) | (greatest <= 1.0), greatest, limit)
                limit = tl.where(tl.load(state + 3) != 0, float("nan"), limit)
                tl.store(thresholds + item, limit)
                for member in tl.static_range(4):
                    tl.store(state + member, 0)
