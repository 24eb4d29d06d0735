# SPDX-License-Identifier: Apache-2.0

"""One large latent in parts on many devices: the sums that the parts share, and each part's noise.

A step sums tensors with a plan's scalars, element by element, so each device steps its part in its own session. Two computations
need a whole batch item: the moments of rescaled guidance and the quantile of a dynamic threshold. The parts here belong to one
item.

`all_sum` returns the sum over the devices of a small array, and `all_gather` the list of the devices' arrays; they correspond to
all_reduce and all_gather_object of torch.distributed.
"""

import numpy as np


def guided(conditional, unconditional, guidance, all_sum):
    """The guided output of a part: e = e_u + g (e_c - e_u), rescaled to e_c's standard deviation in the whole item.

    A session steps with this output as with any other. If `guidance.rescale` is 0, the parts share nothing, and a session's own
    guidance gives the same result.
    """
    c, u = np.asarray(conditional, np.float64), np.asarray(unconditional, np.float64)
    e = u + guidance.scale * (c - u)
    if guidance.rescale:
        count, *sums = all_sum(np.array([c.size, c.sum(), e.sum()]))
        means = np.array(sums) / count
        squares = all_sum(np.array([np.square(c - means[0]).sum(), np.square(e - means[1]).sum()]))
        if squares[1] > 0:
            e *= guidance.rescale * np.sqrt(squares[0] / squares[1]) + 1 - guidance.rescale
    return e.astype(conditional.dtype)


def thresholded(prediction, clamp, count, all_gather):
    """The clamp of a part of a prediction, for `step` of Examples/Plans/plan.py: min(max(p, -s), s) / s.

    s is the quantile of |p| over all `count` elements, from 1 to the maximum. For a ratio of 0.995, it depends only on the greatest
    0.5 % of all values and one more, so each part sends at most this number of values.
    """
    if "dynamic_threshold" not in clamp:
        limit = clamp["range"]["limit"]
        return np.clip(prediction, -limit, limit)
    how = clamp["dynamic_threshold"]
    place = np.float32(how["ratio"]) * np.float64(count - 1)
    first = int(place)
    part = np.sort(np.abs(prediction), axis=None)[-(count - first) :]
    greatest = np.sort(np.concatenate(all_gather(part)))[-(count - first) :].astype(np.float64)
    quantile = greatest[0] + (place - first) * (greatest[min(1, count - 1 - first)] - greatest[0])
    s = np.float32(min(max(quantile, 1), how["maximum"]))
    return np.clip(prediction, -s, s) / s


def part_of_noise(source, count, start, stop, piece=2**16):
    """Elements `start` to `stop` of a call for `count` numbers. Moves the source past all `count`.

    source  a torch_cpu or NumPy NoiseSource
    piece   the count of numbers drawn at once, kept or not: a multiple of 16, because torch's generator makes blocks of 16
    """
    out = np.empty(stop - start, np.float32)
    position = 0
    while position < count:
        # torch draws fewer than 16 numbers by another method, so they join the last piece.
        length = count - position if count - position < piece + 16 else piece
        numbers = source.standard_normal(length)
        begin, end = max(start, position), min(stop, position + length)
        if begin < end:
            out[begin - start : end - start] = numbers[begin - position : end - position]
        position += length
    return out
