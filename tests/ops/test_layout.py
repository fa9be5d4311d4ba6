"""Load-time kernels, bit for bit against NumPy: every format, odd sizes and places. Neighbours must not change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from py_engine.graph.matrix import Matrix
from py_engine.graph.trace import Trace
from py_engine.host.gpu import Gpu
from py_engine.ops import layout
from tests.checkpoints import quantise
from tests.conftest import Runner
from tests.ops.harness import Bench
from tests.ops.matrices import from_bf16, to_bf16

DTYPES = ("F32", "F16", "BF16")
FORMS = [("F32", "f32"), ("F32", "f16"), ("F16", "f16"), ("BF16", "bf16")]  # from, to
PLACES = [(1, 0), (37, 5), (300, 64), (513, 131)]  # count, first element


def stored(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The array as a file of this dtype stores it, and its values as float32."""
    if dtype == "BF16":
        return to_bf16(values), from_bf16(to_bf16(values))
    array = values.astype(np.float32 if dtype == "F32" else np.float16)
    return array, array.astype(np.float32)


def words(array: np.ndarray) -> np.ndarray:
    """The array's bytes as u32. The last word is filled up with one bits."""
    raw = array.tobytes()
    return np.frombuffer(raw + b"\xff" * (-len(raw) % 4), np.uint32)


def odd_values(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32 [n] of all magnitudes, with numbers that are subnormal in f16 or f32, or beyond the range of f16."""
    values = rng.standard_normal(n) * 2.0 ** rng.integers(-26, 17, n)
    values[::11] = [0.0, -0.0, 6e-8, 65504.0, -65519.0, 1e-40, 2.0**-14, 2.98e-8][n % 8]
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, element", PLACES)
def test_convert(gpu: Gpu, run: Runner, dtype: str, kind: str, n: int, element: int) -> None:
    bench = Bench(gpu)
    with np.errstate(over="ignore"):
        source, values = stored(odd_values(np.random.default_rng(n), n), dtype)
    tail = 6
    before = np.full(element + n + tail, 7.0, np.float32 if kind == "f32" else np.float16)
    target = bench.put("target", before)
    trace = Trace(1)
    layout.convert(trace, bench.put("source", words(source)), dtype, target, kind, n, element)  # type: ignore[arg-type]
    run(bench.run(trace))
    got = run(bench.get(target))
    if kind == "f16":
        want = np.clip(values, -65504, 65504).astype(np.float16)
        assert (got[element : element + n].view(np.uint16) == want.view(np.uint16)).all()
    else:
        # Compared as numbers, because a device may flush the subnormals of f32.
        assert (got[element : element + n] == values).all()
    assert (got[:element] == 7.0).all() and (got[element + n :] == 7.0).all()
    bench.close()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, element", PLACES)
def test_interleave(gpu: Gpu, run: Runner, dtype: str, n: int, element: int) -> None:
    bench = Bench(gpu)
    rng = np.random.default_rng(n)
    scales, _ = stored(rng.standard_normal(n), dtype)
    biases, _ = stored(rng.standard_normal(n), dtype)
    bits = np.uint32 if dtype == "F32" else np.uint16
    before = rng.integers(0, 2**16, (element + n + 3, 2)).astype(bits)
    target = bench.put("target", words(before))
    trace = Trace(1)
    for kind, part in (("scale", scales), ("bias", biases)):
        layout.interleave(trace, bench.put(kind, words(part)), dtype, target, kind, n, element)  # type: ignore[arg-type]
    run(bench.run(trace))
    want = before.copy()
    want[element : element + n] = np.stack([scales.view(bits), biases.view(bits)], -1)
    assert (run(bench.get(target)) == words(want)).all()
    bench.close()


def packed(fields: np.ndarray, bits: int) -> np.ndarray:
    """Pack fields as MLX does: one stream of bits, lowest bit first."""
    stream = (fields.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(stream.astype(np.uint8), bitorder="little").view(np.uint32)


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
@pytest.mark.parametrize("rows, cols, element", [(1, 32, 0), (3, 96, 32), (40, 64, 64 * 33)])
def test_repack(gpu: Gpu, run: Runner, bits: int, rows: int, cols: int, element: int) -> None:
    bench = Bench(gpu)
    fields = np.random.default_rng(bits).integers(0, 2**bits, rows * cols)
    field = 4 if bits < 4 else 8
    n = (element + rows * cols) * field // 32
    target = bench.put("target", np.full(n + 2, 0xABCDEF01, np.uint32))
    trace = Trace(1)
    layout.repack(
        trace, bench.put("source", packed(fields, bits)), target, bits, rows, cols, element
    )
    run(bench.run(trace))
    got = run(bench.get(target))
    first = element * field // 32
    assert (got[first:n] == packed(fields, field)).all()
    assert (got[:first] == 0xABCDEF01).all() and (got[n:] == 0xABCDEF01).all()
    bench.close()


def test_repack_refuses_other_widths_and_columns(gpu: Gpu) -> None:
    bench = Bench(gpu)
    t = bench.put("t", np.zeros(64, np.uint32))
    for bits, cols in ((4, 32), (8, 32), (3, 40)):
        with pytest.raises(ValueError, match=f"{bits} bits, {cols} columns"):
            layout.repack(Trace(1), t, t, bits, 1, cols)
    bench.close()


# The first 16 digits of the sha256 of words, scales and biases that mx.quantize of mlx 0.32.4 makes of `tied_values()`
# on the CPU, by dtype, bits and group.
MLX = {
    ("F32", 4, 32): "c7f8086fdaa74627",
    ("F32", 4, 64): "31772db7364c09be",
    ("F32", 8, 32): "674b226ee680c9b3",
    ("F32", 8, 64): "f40dfa04f9307af1",
    ("F16", 4, 32): "2f15ad071ba32bba",
    ("F16", 4, 64): "950c2d2cd3e6b62b",
    ("F16", 8, 32): "c4df5bd5f8d96bb2",
    ("F16", 8, 64): "8dda188e68fb60fc",
    ("BF16", 4, 32): "91e48dba941749e0",
    ("BF16", 4, 64): "906a34752b5e1bd7",
    ("BF16", 8, 32): "e34f1c60912a595c",
    ("BF16", 8, 64): "ac169253d28f49ed",
}


def tied_values() -> np.ndarray:
    """float32 [96, 192]: rows of different magnitudes; zero, constant, one-sided and symmetrical groups; coarse values,
    so that ties are common; values so small that MLX's smallest scale is used."""
    rng = np.random.default_rng(11)
    w = rng.standard_normal((96, 192)) * rng.uniform(1e-3, 2, (96, 1))
    w[3] = 0
    w[4, :64] = 0.7
    w[5:7] = np.abs(w[5:7]) * [[1], [-1]]
    w[7] = np.round(w[7] * 8) / 8
    w[8:60] = np.round(w[8:60] * 16) / 16
    w[60:64] *= 1e-6
    w[64:80, ::32] = -w[64:80, 1::32]
    w[80:] *= 1000
    return w.astype(np.float32)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise(gpu: Gpu, run: Runner, dtype: str, bits: int, group: int) -> None:
    """The result is mlx's own, bit for bit, also for ties, because the shader divides exactly."""
    bench = Bench(gpu)
    source, values = stored(tied_values(), dtype)
    fields, scale, bias = (part.ravel() for part in quantise(values, bits, group))
    want = packed(fields, bits)
    side = np.stack([stored(scale, dtype)[0], stored(bias, dtype)[0]], -1)
    digest = hashlib.sha256(want.tobytes() + side[:, 0].tobytes() + side[:, 1].tobytes())
    assert digest.hexdigest()[:16] == MLX[dtype, bits, group], (
        "the reference here is not MLX's rule"
    )
    n, first = scale.size, 37
    size = group * bits // 32
    weight = bench.put("weight", np.full((first + n + 2) * size, 0xABCDEF01, np.uint32))
    before = np.full((first + n + 2, 2), 7, side.dtype)
    scales = bench.put("scales", words(before))
    trace = Trace(1)
    layout.quantise(
        trace, bench.put("source", words(source)), dtype, weight, scales, bits, group, n, first
    )
    run(bench.run(trace))
    got = run(bench.get(weight))
    assert (got[first * size : (first + n) * size] == want).all()
    assert (got[: first * size] == 0xABCDEF01).all() and (
        got[(first + n) * size :] == 0xABCDEF01
    ).all()
    before[first : first + n] = side
    assert (run(bench.get(scales)) == words(before)).all()
    bench.close()


def as_bits(values: np.ndarray, to: str) -> np.ndarray:
    """float32 values rounded to a format; bf16 as its bits."""
    return (
        to_bf16(values)
        if to == "bf16"
        else values.astype(np.float32 if to == "f32" else np.float16)
    )


@pytest.mark.parametrize(
    "dtype, to", [("F32", "f32"), ("F32", "f16"), ("F16", "f16"), ("BF16", "bf16"), ("F16", "f32")]
)
@pytest.mark.parametrize(
    "count, channels, taps, row", [(1, 2, 1, 0), (5, 6, 3, 3), (37, 10, 7, 64), (3, 130, 5, 1)]
)  # fmt: skip
def test_rows_with_taps_before_channels(
    gpu: Gpu, run: Runner, dtype: str, to: str, count: int, channels: int, taps: int, row: int
) -> None:
    """Rows are transposed bit for bit, and their neighbours do not change."""
    bench, cols = Bench(gpu), channels * taps
    source, values = stored(np.random.default_rng(count).standard_normal(count * cols), dtype)
    want = as_bits(values.reshape(count, channels, taps).transpose(0, 2, 1).ravel(), to)
    size = want.itemsize
    n = (row + count + 2) * cols * size // 4
    target = bench.put("target", np.full(n, 0xABCDEF01, np.uint32))
    trace = Trace(1)
    layout.rows(
        trace, bench.put("source", words(source)), dtype, target, to, cols, count, row, channels=channels,  # type: ignore[arg-type]
    )  # fmt: skip
    run(bench.run(trace))
    got = run(bench.get(target))
    first, last = row * cols * size // 4, (row + count) * cols * size // 4
    assert (got[first:last] == want.view(np.uint32)).all()
    assert (got[:first] == 0xABCDEF01).all() and (got[last:] == 0xABCDEF01).all()
    bench.close()


@pytest.mark.parametrize(
    "dtype, to", [("F32", "f32"), ("F32", "f16"), ("F16", "f16"), ("BF16", "bf16"), ("BF16", "f32")]
)
@pytest.mark.parametrize(
    "count, channels, taps, first", [(1, 1, 4, 0), (5, 6, 3, 3), (70, 1, 301 * 2, 64)]
)  # fmt: skip
def test_rows_of_a_length(
    gpu: Gpu, run: Runner, dtype: str, to: str, count: int, channels: int, taps: int, first: int
) -> None:
    """Weight norm against float64. Row 0 is zero and stays zero."""
    bench, cols = Bench(gpu), channels * taps
    rng = np.random.default_rng(count)
    made = rng.standard_normal((count, cols)) * 10.0 ** rng.integers(-3, 3, (count, 1))
    made[0] = 0
    source, values = stored(made.ravel(), dtype)
    lengths = rng.standard_normal(first + count + 1).astype(np.float32)
    v = values.reshape(count, channels, taps).astype(np.float64)
    norms = np.sqrt((v**2).sum((1, 2), keepdims=True))
    norms[0] = 1
    want = lengths[first : first + count, None, None].astype(np.float64) * v / norms
    want = want.transpose(0, 2, 1).ravel()
    target = bench.put(
        "target",
        np.zeros(count * cols, {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[to]),
        to,
    )
    trace = Trace(1)
    layout.rows(
        trace, bench.put("source", words(source)), dtype, target, to, cols, count,  # type: ignore[arg-type]
        channels=channels, lengths=(bench.put("lengths", lengths), first),
    )  # fmt: skip
    run(bench.run(trace))
    got = run(bench.get(target))
    got = from_bf16(got) if to == "bf16" else got.astype(np.float64)
    step = {"f32": 2.0**-21, "f16": 2.0**-10, "bf16": 2.0**-7}[to]
    assert (got[:cols] == 0).all()
    assert (np.abs(got - want) <= np.abs(want) * step + (6e-8 if to == "f16" else 0)).all()
    bench.close()


def test_rows_that_fill_a_grid_of_two_dimensions(gpu: Gpu, run: Runner) -> None:
    bench, count = Bench(gpu), 65535 + 10
    source = np.arange(2 * count, dtype=np.float32)
    target = bench.put("target", np.full(2 * count + 3, 7, np.float32))
    trace = Trace(1)
    layout.rows(trace, bench.put("source", source), "F32", target, "f32", 2, count)
    run(bench.run(trace))
    got = run(bench.get(target))
    assert (got[:-3] == source).all() and (got[-3:] == 7).all()
    bench.close()


def test_rows_that_are_no_whole_words_are_refused(gpu: Gpu) -> None:
    bench = Bench(gpu)
    t = bench.put("t", np.zeros(64, np.uint32))
    for to, cols, channels in (("f16", 5, 0), ("bf16", 7, 0), ("f32", 6, 4)):
        with pytest.raises(ValueError, match=f"{cols} of {to}, {channels} channels"):
            layout.rows(Trace(1), t, "F32", t, to, cols, 1, channels=channels)  # type: ignore[arg-type]


def test_more_workgroups_than_one_dimension_has(gpu: Gpu, run: Runner) -> None:
    bench = Bench(gpu)
    n = 65535 * 256 + 1000
    source = np.random.default_rng(0).integers(0, 2**16, n).astype(np.uint16)
    source &= 0xBFFF  # this makes infinity and NaN impossible
    target = bench.put("target", np.zeros(n, np.float32))
    trace = Trace(1)
    layout.convert(trace, bench.put("source", words(source)), "BF16", target, "f32", n)
    run(bench.run(trace))
    got = run(bench.get(target))
    assert np.array_equal(got.view(np.uint32), source.astype(np.uint32) << 16)
    bench.close()


def pcg(v: np.ndarray) -> np.ndarray:
    state = v * np.uint32(747796405) + np.uint32(2891336453)
    word = ((state >> ((state >> 28) + 4)) ^ state) * np.uint32(277803737)
    return (word >> 22) ^ word


def filled(
    bench: Bench, run: Runner, form: str, scale_format: str, rows: int, cols: int, seed: int
) -> list[np.ndarray]:
    """The words of a random weight and, for q4 and q8, of its scales."""
    bits = {"f32": 32, "f16": 16, "bf16": 16, "q4": 4, "q8": 8}[form]
    weight = bench.put("weight", np.zeros(rows * cols * bits // 32, np.uint32))
    scales = None
    if form[0] == "q":
        scales = bench.put(
            "scales", np.zeros(rows * cols // 32 * (2 if scale_format == "f32" else 1), np.uint32)
        )
    matrix = Matrix(rows, cols, form, weight, 0, scales, 32, scale_format)  # type: ignore[arg-type]
    trace = Trace(1)
    layout.random(trace, weight, matrix, seed)
    run(bench.run(trace))
    return [run(bench.get(t)) for t in (weight, scales) if t is not None]


@pytest.mark.parametrize(
    "form, scale_format",
    [("f32", ""), ("f16", ""), ("bf16", ""), ("q4", "f16"), ("q4", "bf16"), ("q8", "f32")],
)
def test_random_matrix(gpu: Gpu, run: Runner, form: str, scale_format: str) -> None:
    """The bits are those of NumPy's integers, so every host makes the same. Values spread over +-sqrt(3 / cols), and
    another seed gives others."""
    bench = Bench(gpu)
    rows, cols = 8, 96
    got = filled(bench, run, form, scale_format, rows, cols, 5)
    with np.errstate(over="ignore"):
        place = np.arange(got[0].size, dtype=np.uint32)
        bits = pcg(pcg(place) ^ pcg(np.array(256 + 5, np.uint32)))
    reach = math.sqrt(3 / cols)
    if form[0] == "q":
        assert (got[0] == bits).all()
        dtype = {"f16": np.float16, "f32": np.float32, "bf16": np.uint16}[scale_format]
        pair = got[1].view(dtype).reshape(-1, 2)
        scale, bias = (from_bf16(pair) if scale_format == "bf16" else pair.astype(np.float64))[0]
        assert (pair == pair[0]).all()
        top = 15 if form == "q4" else 255
        assert bias == -scale * top / 2 and 0.85 * reach < -bias < 1.15 * reach
    else:
        halves = np.stack([bits, bits >> np.uint32(16)], -1).ravel()
        k = 2 * ((bits if form == "f32" else halves) & 255).astype(np.int64) - 255
        read: dict[str, Callable[[], np.ndarray]] = {
            "f32": lambda: got[0].view(np.float32),
            "f16": lambda: got[0].view(np.float16),
            "bf16": lambda: from_bf16(got[0].view(np.uint16)),
        }
        values = read[form]().astype(np.float64)
        step = values[np.argmax(k)] / k.max()
        bound = (
            2.0**-7 if form == "bf16" else 0.0
        )  # k has 8 bits and step 3, so k * step does not fit the 8 bits of bf16
        assert (np.abs(values - k * step) <= bound * np.abs(values)).all()
        assert 0.85 * reach < values.max() < 1.15 * reach and abs(values.mean()) < 0.1 * reach
    assert (filled(bench, run, form, scale_format, rows, cols, 6)[0] != got[0]).mean() > 0.9
    bench.close()


def test_random_vector_is_one(gpu: Gpu, run: Runner) -> None:
    bench = Bench(gpu)
    target = bench.put("target", np.zeros(77, np.float32))
    trace = Trace(1)
    layout.random(trace, target, None, 3)
    run(bench.run(trace))
    assert (run(bench.get(target)) == 1.0).all()
    bench.close()
