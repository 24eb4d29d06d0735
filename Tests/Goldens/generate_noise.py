#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes noise.json, the golden vectors of the noise sources.

Usage::

    python3 Tests/Goldens/generate_noise.py [--out DIR]

Needs torch >= 2.15 (for its Philox on the CPU) and numpy, on an x86-64 processor with AVX2. A run with the same versions
reproduces the file byte for byte; the float64 values and the spare normals depend on the C library's log, sin and cos.

Contents
--------

``torch_fills``, ``numpy_fills``
    one call after seeding: ``seed``, ``count`` and the float32 result. Of the result: ``sha256`` of its little-endian bytes, and
    its ``values`` at ``indices`` (all of a short result, a few of a long one), base64 of little-endian float32.
``torch_sequences``, ``numpy_sequences``
    successive calls on one generator: ``type`` and ``count`` of each, its result, and the generator's state after it. float64
    results are complete, as base64 of little-endian float64. The state: the number of ``drawn`` words, ``words_sha256`` of the
    624 little-endian words, and ``spare``, the normal that is left over (hexadecimal float, null for none).
``torch_states``
    Generator.get_state() of a generator in use, as words, position and spare normal, and its next results.
``torch_exhaustive``
    all 2^24 values of one uniform while the other one is fixed, in blocks of 16. The draws of block b are 8 times ``first`` and
    8 times ``second``; null stands for the values 8 b ... 8 b + 7. ``sum`` is the sum of the results' bits x[i], and ``weighted``
    the sum of (2 i + 1) x[i], modulo 2^64. The fixed first draw makes the radius 1.
``philox_known_answers``
    counter, key and output: the lines "philox4x32 10" of tests/kat_vectors in Random123 1.14
    (https://github.com/DEShawResearch/random123), the code of Salmon et al. 2011, doi:10.1145/2063384.2063405.
``philox_words``
    the words of torch's own Philox on the CPU (torch.func._random, subsequence 0) for a seed, starting at a block of four words.
``cuda_published``
    published values of torch.randn on CUDA devices. Each entry: ``source``, ``device`` if it is known, ``max_blocks``
    (multiprocessors times threads per multiprocessor / 256; arbitrary for small tensors), ``seed``, ``earlier`` (the element counts
    of preceding calls), ``count``, ``indices``, ``values``, ``digits`` (the number of printed decimals, null for a float32's full
    precision), and ``mean`` and ``std`` if they aren't 0 and 1.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import struct

import numpy as np
import torch

SEEDS = [0, 1, 42, 1234567, 2**32 + 5]
COUNTS = [1, 2, 15, 16, 17, 31, 32, 33, 100, 1000, 16384]
SEQUENCES = [
    [1, 1, 1, 16, 1, 2, 15, 17, 3, 1000, 7, 0, 5, 33, 16, 31],
    [15, 15, 16, 2, 624, 1, 608, 16, 1, 312, 100, 3],
]
WIDE_SEQUENCE = [(64, 1), (32, 1), (64, 16), (32, 16), (64, 2), (64, 33), (32, 3), (64, 15), (32, 17), (64, 17)]


def encoded(array):
    return base64.b64encode(array.tobytes()).decode()


def result(array):
    """The recorded parts of a float32 result."""
    n = array.size
    indices = list(range(n)) if n <= 33 else sorted({0, 1, 7, 8, 15, 16, n // 3, n // 2, n - 17, n - 16, n - 9, n - 8, n - 1})
    return {
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        "indices": indices,
        "values": encoded(array[indices]),
    }


def state_record(words, drawn, spare):
    return {
        "drawn": int(drawn),
        "words_sha256": hashlib.sha256(np.asarray(words, dtype="<u4").tobytes()).hexdigest(),
        "spare": None if spare is None else float(spare).hex(),
    }


def torch_state(generator):
    """The words, the number of drawn ones, and the spare normal, parsed from torch's bytes.

    The layout: uint64 seed, int32 left, int32 seeded, uint64 next, uint64 state[624], three doubles, int32 flag. The second double
    is the spare normal; the flag tells whether there is one.
    """
    data = generator.get_state().numpy().tobytes()
    left, _, following = struct.unpack_from("<iiQ", data, 8)
    words = np.frombuffer(data, "<u8", 624, 24).astype("<u4")
    _, spare, _, has_spare = struct.unpack_from("<dddi", data, 24 + 8 * 624)
    return words, 624 if left == 1 else following, spare if has_spare else None


def numpy_state(generator):
    _, words, drawn, has_spare, spare = generator.get_state()
    return words, drawn, spare if has_spare else None


def torch_fills():
    for seed in SEEDS:
        for count in COUNTS:
            values = torch.randn(count, generator=torch.Generator().manual_seed(seed)).numpy()
            yield {"seed": seed, "count": count, **result(values)}


def numpy_fills():
    for seed in SEEDS[:-1]:
        for count in COUNTS:
            values = np.random.RandomState(seed).standard_normal(count).astype(np.float32)
            yield {"seed": seed, "count": count, **result(values)}


def sequence(seed, calls, make, draw, state):
    generator = make(seed)
    steps = []
    for bits, count in calls:
        values = draw(generator, bits, count)
        kept = result(values) if bits == 32 else {"values": encoded(values)}
        steps.append({"type": f"float{bits}", "count": count, **kept, "state": state_record(*state(generator))})
    return {"seed": seed, "calls": steps}


def torch_sequences():
    def draw(generator, bits, count):
        return torch.randn(count, generator=generator, dtype=torch.float64 if bits == 64 else torch.float32).numpy()

    for seed in SEEDS:
        for counts in SEQUENCES:
            yield sequence(
                seed, [(32, count) for count in counts], lambda seed: torch.Generator().manual_seed(seed), draw, torch_state
            )
        yield sequence(seed, WIDE_SEQUENCE, lambda seed: torch.Generator().manual_seed(seed), draw, torch_state)


def numpy_sequences():
    def draw(generator, bits, count):
        values = generator.standard_normal(count)
        return values if bits == 64 else values.astype(np.float32)

    for seed in SEEDS[:-1]:
        yield sequence(seed, [(32, count) for count in SEQUENCES[0]], np.random.RandomState, draw, numpy_state)
        yield sequence(seed, WIDE_SEQUENCE, np.random.RandomState, draw, numpy_state)


def torch_states():
    for seed, counts in [(42, [1, 100]), (1, [16384]), (7, [3])]:
        generator = torch.Generator().manual_seed(seed)
        for count in counts:
            torch.randn(count, generator=generator)
        words, drawn, spare = torch_state(generator)
        yield {
            "words": encoded(words),
            "drawn": int(drawn),
            "spare": None if spare is None else spare.hex(),
            "next": {"count": 5, **result(torch.randn(5, generator=generator).numpy())},
        }


def untempered(draws):
    """The words that temper to these draws."""
    x = draws ^ (draws >> np.uint32(18))
    x = x ^ ((x << np.uint32(15)) & np.uint32(0xEFC60000))
    y = x
    for _ in range(4):
        y = x ^ ((y << np.uint32(7)) & np.uint32(0x9D2C5680))
    z = y
    for _ in range(2):
        z = y ^ (z >> np.uint32(11))
    return z


def torch_normals_of(draws):
    """torch's results for given draws, in blocks of 16, from states whose words temper to the draws."""
    run = 38 * 16  # A state has 623 words left after the first one.
    generator = torch.Generator().manual_seed(0)
    data = np.frombuffer(generator.get_state().numpy().tobytes(), np.uint8).copy()
    data[8:24] = np.frombuffer(struct.pack("<iiQ", 624, 1, 1), np.uint8)  # left, seeded, next
    words = data[24 : 24 + 8 * 624].view("<u8")
    values = np.empty(draws.size, np.float32)
    for start in range(0, draws.size, run):
        part = untempered(draws[start : start + run])
        words[1 : 1 + part.size] = part
        generator.set_state(torch.from_numpy(data))
        values[start : start + part.size] = torch.randn(part.size, generator=generator).numpy()
    return values


def torch_exhaustive():
    every = np.arange(1 << 24, dtype=np.uint32)
    unit_radius = None
    for varies_first in (True, False):
        fixed = np.full_like(every, 0 if varies_first else unit_radius)
        pair = (every, fixed) if varies_first else (fixed, every)
        values = torch_normals_of(np.concatenate([draws.reshape(-1, 8) for draws in pair], axis=1).reshape(-1))
        if varies_first:
            cosines = values.reshape(-1, 16)[:, :8].reshape(-1)  # The angle is 0, so they are the radii.
            unit_radius = int(np.nonzero(cosines == 1)[0][0])
        bits = values.view("<u4").astype(np.uint64)
        odd = 2 * np.arange(bits.size, dtype=np.uint64) + np.uint64(1)
        yield {
            "first": None if varies_first else unit_radius,
            "second": 0 if varies_first else None,
            "sum": int(bits.sum(dtype=np.uint64)),
            "weighted": int((bits * odd).sum(dtype=np.uint64)),
        }


def philox_known_answers():
    for line in (
        "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
    ):
        words = [int(word, 16) for word in line.split()]
        yield {"counter": words[:4], "key": words[4:6], "output": words[6:]}


def philox_words():
    for seed, block in [(0, 0), (42, 0), (2**32 + 5, 0), (2**64 - 1, 12), (1234567, 2**32 - 2)]:
        words = torch.empty(32, dtype=torch.uint32)
        torch.ops.aten._philox_randint_(words, torch.tensor([seed, block], dtype=torch.uint64))
        yield {"seed": seed, "block": block, "words": encoded(words.numpy())}


# Values in full float32 precision.
SEED_0_FIRST_16 = [
    -0.9246624, -0.42534423, -2.6438458, 0.14518386, -0.1208664, -0.57972574, -0.622851, -0.3283869, -1.0745419, -0.36314395,
    -1.6710504, 2.2655048, 0.3116848, -0.1841891, 1.2866427, 1.1819527,
]  # fmt: skip
SEED_42_FIRST_160 = [
    0.19401879608631134, 2.1613736152648926, -0.17205022275447845, 0.8490601181983948, -1.9243990182876587,
    0.6529855132102966, -0.6494408249855042, -0.8175247311592102, 0.5279644727706909, -1.2753498554229736,
    -1.6621263027191162, -0.3033137321472168, -0.09256987273693085, 0.1992371529340744, -1.1204328536987305,
    1.8576586246490479, -0.7145188450813293, 0.6881051063537598, 0.7968308329582214, -0.03340187668800354,
    1.491731882095337, -0.5165092945098877, -0.25409597158432007, 1.4746155738830566, -0.32603731751441956,
    -1.1599626541137695, 2.355130910873413, -0.6924470663070679, 0.18374282121658325, -1.1835099458694458,
    -1.8028671741485596, -1.5807569026947021, 0.8386695384979248, 1.4191802740097046, 0.6469367146492004,
    0.4252724051475525, -1.5892407894134521, 0.622344970703125, 1.6898036003112793, -0.6648038625717163,
    0.9425426721572876, 0.07832549512386322, 0.08465634286403656, -0.1408299207687378, 0.33156055212020874,
    -0.5889761447906494, -1.0722894668579102, 0.0953957587480545, -0.3346919119358063, -0.525797426700592,
    -0.8776255249977112, 0.39383137226104736, 0.16395936906337738, -0.1976822465658188, 1.010413646697998,
    -1.3482447862625122, -0.34977224469184875, -0.6442679762840271, 0.4467834234237671, -0.5371097326278687,
    1.2423185110092163, -0.8145953416824341, 0.2501504123210907, -0.42725861072540283, 1.1043692827224731,
    -1.1027987003326416, 0.5543266534805298, -1.2846554517745972, -0.38157832622528076, 0.5139457583427429,
    0.10019008070230484, 0.2586260437965393, 0.3616807162761688, 2.278669595718384, 0.023345094174146652,
    1.5827577114105225, -1.1591792106628418, 0.9483923316001892, -0.45734766125679016, 0.7605476975440979,
    -0.5786830186843872, -0.7050208449363708, -0.7233877182006836, -0.5070619583129883, -0.43984994292259216,
    -0.41817018389701843, 0.17413868010044098, 0.44268035888671875, 0.5068982839584351, -1.2168086767196655,
    -0.27187299728393555, 0.27654942870140076, -1.4398165941238403, -0.6463212370872498, 0.07486921548843384,
    0.19387875497341156, 0.5960116982460022, 0.23220330476760864, 1.141465425491333, -0.6817070245742798,
    -1.6531448364257812, 0.0060356417670845985, 1.3814870119094849, 1.270426630973816, 0.02323809638619423,
    -1.300145149230957, -0.7509413361549377, 0.37562432885169983, -0.5474422574043274, -0.03964127227663994,
    -0.7778646945953369, -2.5018858909606934, 0.7000165581703186, -0.0937746912240982, -0.21625694632530212,
    0.44839420914649963, -0.31519615650177, 0.021637355908751488, 0.6253470778465271, 0.2465813010931015,
    0.7485606074333191, -0.11692450940608978, -0.10216468572616577, -0.5010807514190674, -0.504887580871582,
    -1.2071924209594727, -0.24375997483730316, -0.6784263849258423, 0.19728611409664154, 0.9782202839851379,
    -0.028667714446783066, 1.6825895309448242, 1.0908557176589966, -0.9920945763587952, -0.6712623834609985,
    1.7196345329284668, 2.460554361343384, -0.6198393702507019, 1.2713860273361206, -0.27986663579940796,
    0.43596675992012024, 0.4260239005088806, 1.0645543336868286, -2.027996301651001, -0.6325827240943909,
    2.1106481552124023, -0.09474601596593857, 0.23587526381015778, -0.7300723195075989, -1.6857199668884277,
    0.9114198088645935, 0.788545548915863, -0.6287308931350708, 2.159554958343506, 1.1642494201660156,
    -0.4256628751754761, 0.23932021856307983, -1.2776703834533691, -0.1206469014286995, -0.6065842509269714,
]  # fmt: skip
SEED_42_SECOND_CALL = [
    0.13913755118846893, -0.10821663588285446, -0.7174222469329834, 0.756648600101471, 0.3714880645275116,
]  # fmt: skip
SEED_42_THIRD_CALL = [
    -0.5187486410140991, 1.2267580032348633, 0.6254805326461792, -0.9116847515106201, 0.568683385848999,
]  # fmt: skip
# Values with four decimals.
A4000_CORNERS = [
    [2.8731, 5.2727, 2.9889, 1.6853, 9.6331, 6.6319],
    [3.9968, 3.8097, 5.7328, 4.4029, 3.9804, 7.4698],
    [6.5552, 4.0857, 4.2315, 2.7704, 3.5479, 3.3063],
    [8.6297, 2.3137, 6.2596, 7.9358, 4.4697, 2.7475],
    [7.0551, 7.8583, 3.9990, 4.1139, 8.9315, 4.2042],
    [2.7337, 2.2106, 7.7815, 8.2207, 6.5395, 4.2604],
]


def cuda_published():
    def entry(source, seed, count, indices, values, *, digits=None, device=None, max_blocks=None, earlier=(), **moments):
        return {
            "source": source, "device": device, "max_blocks": max_blocks, "seed": seed, "earlier": list(earlier),
            "count": count, "indices": list(indices), "values": list(values), "digits": digits, **moments,
        }  # fmt: skip

    yield entry(
        "github.com/bokutotu/zenu, tests of batch normalization (y_grad: torch.manual_seed(0), shape [2, 2, 2, 2])",
        0, 16, range(16), SEED_0_FIRST_16,
    )  # fmt: skip
    yield entry(
        "PaddleMaterials (a fork's port of Chemeleon2), integrated_validation.py, LDM_Z",
        42, 160, range(160), SEED_42_FIRST_160,
    )  # fmt: skip
    kernel = "a Colab notebook's attention kernel check on GitHub: x [1, 4, 32], w_qkv [96, 32], bias_qkv [96]"
    yield entry(kernel, 42, 96 * 32, range(5), SEED_42_SECOND_CALL, earlier=[128])
    yield entry(kernel, 42, 96, range(5), SEED_42_THIRD_CALL, earlier=[128, 96 * 32])
    flow = "github.com/pytorch/pytorch/issues/143086, torch 2.5.1"
    count = 49 * 12 * 112 * 144
    ends = [0, 1, 2, count - 3, count - 2, count - 1]
    yield entry(
        flow, 1, count, ends, [-0.2963, 2.6764, -0.1408, -0.6970, -0.7780, 0.3267], digits=4, device="H100 (132 x 2048)",
        max_blocks=132 * 8,
    )  # fmt: skip
    yield entry(
        flow, 1, count, ends, [-0.2963, 2.6764, -0.1408, 0.1549, -0.6797, -0.1656], digits=4, device="A100 (108 x 2048)",
        max_blocks=108 * 8,
    )  # fmt: skip
    yield entry(
        "github.com/pytorch/pytorch/issues/97097, torch 2.0.0, normal_(5, 5 ** 0.5)", 14, 100_000,
        [100 * row + column for row in (0, 1, 2, 997, 998, 999) for column in (0, 1, 2, 97, 98, 99)],
        [value for row in A4000_CORNERS for value in row], digits=4, device="RTX A4000 (48 x 1536)", max_blocks=48 * 6,
        mean=5, std=5**0.5,
    )  # fmt: skip
    yield entry(
        "github.com/pytorch/pytorch/issues/62467", 43, 3 * 128 * 128, [0, 128 * 128, 2 * 128 * 128], [1.9983, 0.8704, 2.1127],
        digits=4, device="RTX A6000 (84 x 1536)", max_blocks=84 * 6,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        parser.error("this processor takes torch's plain path, whose last bits are others")
    record = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "torch_fills": list(torch_fills()),
        "torch_sequences": list(torch_sequences()),
        "torch_states": list(torch_states()),
        "torch_exhaustive": list(torch_exhaustive()),
        "numpy_fills": list(numpy_fills()),
        "numpy_sequences": list(numpy_sequences()),
        "philox_known_answers": list(philox_known_answers()),
        "philox_words": list(philox_words()),
        "cuda_published": list(cuda_published()),
    }
    path = options.out / "noise.json"
    path.write_text(json.dumps(record, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
