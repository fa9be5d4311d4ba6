"""Layers that read the same input are stacked into one matrix, and may have different widths: every pair of 2, 3, 4, 5,
6, 8 bits and float dtypes, in both orders. A plain float32 checkpoint of the same values is the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from py_engine.abort import Abort
from py_engine.graph.kernels import Kernels
from py_engine.graph.matrix import Matrix
from py_engine.host.gpu import Gpu
from py_engine.host.io_native import NativeIo
from py_engine.serve.engine import Engine
from py_engine.sources.address import open_repository
from py_engine.sources.config import quantization
from py_engine.sources.safetensors import read_tensors
from py_engine.weights.loader import Loader
from py_engine.weights.mlx_quant import quantization_of
from py_engine.weights.store import WeightStore
from tests import reference
from tests.checkpoints import Checkpoint, Stored, quantise
from tests.conftest import Runner
from tests.ops.matrices import from_bf16

IDS = [(7 * i + i * i) % 64 for i in range(9)]
KINDS: tuple[int | str, ...] = (2, 3, 4, 5, 6, 8, "F32", "F16", "BF16")
PAIRS = list(itertools.permutations(KINDS, 2))
H, D, VOCAB = 128, 32, 64
LAYERS = 18  # one model tests a quarter of PAIRS


class Made:
    """A checkpoint in two forms: packed, and plain with the same values in float32."""

    def __init__(self, config: dict[str, Any], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        origin = reference.folder("qwen2-f32")
        packing: dict[str, Any] = {"bits": 4, "group_size": 64}
        config = {
            "hidden_size": H, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": D,
            "intermediate_size": 64, "vocab_size": VOCAB, "max_position_embeddings": 64, "rope_theta": 1e4,
            "tie_word_embeddings": True, **config,
        }  # fmt: skip
        self.packed = Checkpoint({**config, "quantization": packing}, {}, origin)
        self.plain = Checkpoint(config, {}, origin)
        self.floats("model.embed_tokens.weight", 0.3 * self.rng.standard_normal((VOCAB, H)))

    def floats(self, name: str, values: np.ndarray) -> None:
        """Add a tensor that is float32 in both."""
        for side in (self.packed, self.plain):
            side.tensors[name] = Stored.of(values.astype(np.float32), "F32")

    def norm(self, name: str, n: int = H, about: float = 1.0) -> None:
        """Add a norm's weight."""
        self.floats(f"{name}.weight", about + 0.1 * self.rng.standard_normal(n))

    def linear(
        self, name: str, rows: int, cols: int, kind: int | str, group: int, sides: str = "F16"
    ) -> None:
        """Add a matrix. `kind`: its bits, or a float dtype; `sides`: the dtype of its scales and biases."""
        values = (self.rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)
        if isinstance(kind, str):
            stored = Stored.of(values, kind)
            self.packed.tensors[f"{name}.weight"] = stored
            self.plain.tensors[f"{name}.weight"] = Stored.of(stored.values, "F32")
            return
        fields, scale, bias = quantise(values, kind, group)
        scales, biases = Stored.of(scale, sides), Stored.of(bias, sides)
        bits = (fields[..., None] >> np.arange(kind) & 1).astype(np.uint8).reshape(rows, -1)
        words = np.packbits(bits, axis=1, bitorder="little").view("<u4")
        self.packed.tensors |= {
            f"{name}.weight": Stored("U32", words), f"{name}.scales": scales, f"{name}.biases": biases,
        }  # fmt: skip
        self.packed.config["quantization"][name] = {"bits": kind, "group_size": group}
        wide = [np.repeat(side.values, group, -1) for side in (scales, biases)]
        self.plain.tensors[f"{name}.weight"] = Stored.of(
            (fields * wide[0] + wide[1]).astype(np.float32), "F32"
        )


def dense(which: int) -> Made:
    """A Llama with a quarter of all pairs, one pair a layer. gate and up have the pair in groups of 64 (in every third
    layer the groups differ); q and k have it in reverse order, in groups of 32. With an odd `which`, all linear layers
    have biases."""
    biased = bool(which % 2)
    made = Made(
        {
            "model_type": "llama", "num_hidden_layers": LAYERS, "attention_bias": biased, "mlp_bias": biased,
            "rms_norm_eps": 1e-6,
        },
        which,
    )  # fmt: skip
    for i, (a, b) in enumerate(PAIRS[which * LAYERS : (which + 1) * LAYERS]):
        at = f"model.layers.{i}."
        groups = (64, 32) if i % 3 == 2 else (64, 64)
        sides = ("F16", "BF16", "F32")[i % 3]
        shapes = (
            ("self_attn.q_proj", 2 * D, H, b, 32), ("self_attn.k_proj", D, H, a, 32),
            ("self_attn.v_proj", D, H, (a, b)[i % 2], 32), ("self_attn.o_proj", H, 2 * D, b, 64),
            ("mlp.gate_proj", 64, H, a, groups[0]), ("mlp.up_proj", 64, H, b, groups[1]),
            ("mlp.down_proj", H, 64, a, 32),
        )  # fmt: skip
        for name, rows, cols, kind, group in shapes:
            made.linear(at + name, rows, cols, kind, group, sides)
            if biased:
                made.floats(f"{at}{name}.bias", 0.2 * made.rng.standard_normal(rows))
        made.norm(at + "input_layernorm")
        made.norm(at + "post_attention_layernorm")
    made.norm("model.norm")
    return made


def mixed(made: Made, rng: np.random.Generator) -> Iterator[tuple[int | str, int]]:
    """Random kinds with group sizes. Two neighbours never have the same kind."""
    last: int | str = ""
    while True:
        kind = KINDS[rng.integers(len(KINDS))]
        if kind != last:
            last = kind
            yield kind, (32, 64, 128)[rng.integers(3)] if rng.random() < 0.3 else 64


def hybrid(family: str) -> Made:
    """A hybrid with the fused projections: Qwen3.5's q|k|v, z, b, a and gated q, or LFM2's q, k, v and w1, w3."""
    qwen = family == "qwen3_5"
    kinds = (
        ["linear_attention"] * 11 + ["full_attention"] if qwen else ["conv"] * 2 + ["full_attention"] * 8
    )  # fmt: skip
    more: dict[str, Any] = {"model_type": "qwen3_5_text"} if qwen else {"model_type": "lfm2"}
    more |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    if qwen:
        more |= {
            "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }  # fmt: skip
    else:
        more |= {"block_auto_adjust_ff_dim": False, "block_ff_dim": 64}
    made = Made(more, 7)
    draw = mixed(made, np.random.default_rng(3))
    about = 0.0 if qwen else 1.0
    out, norm = ("o_proj", "norm") if qwen else ("out_proj", "layernorm")
    for i, kind in enumerate(kinds):
        at = f"model.layers.{i}."
        shapes: list[tuple[str, int, int]]
        if kind == "linear_attention":
            at_linear = at + "linear_attn."
            shapes = [
                ("linear_attn.in_proj_qkv", 96, H), ("linear_attn.in_proj_z", 32, H),
                ("linear_attn.in_proj_b", 2, H), ("linear_attn.in_proj_a", 2, H),
            ]  # fmt: skip
            made.linear(at_linear + "out_proj", H, 32, 4, 32)
            made.floats(at_linear + "conv1d.weight", 0.5 * made.rng.standard_normal((96, 1, 4)))
            made.floats(at_linear + "A_log", -1 + 0.1 * made.rng.standard_normal(2))
            made.floats(at_linear + "dt_bias", 0.1 * made.rng.standard_normal(2))
            made.norm(at_linear + "norm", 16)
        elif kind == "conv":
            shapes = [("conv.in_proj", 3 * H, H), ("conv.out_proj", H, H)]
            made.floats(at + "conv.conv.weight", 0.5 * made.rng.standard_normal((H, 1, 3)))
        else:
            shapes = [
                ("self_attn.q_proj", 2 * D * (1 + qwen), H), ("self_attn.k_proj", D, H),
                ("self_attn.v_proj", D, H),
            ]  # fmt: skip
            made.linear(f"{at}self_attn.{out}", H, 2 * D, 6, 64)
            made.norm(f"{at}self_attn.q_{norm}", D, about)
            made.norm(f"{at}self_attn.k_{norm}", D, about)
        gate, up, down = (
            ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
            if qwen
            else ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2")
        )
        for name, rows, cols in (*shapes, (gate, 64, H), (up, 64, H)):
            width, group = next(draw)
            made.linear(at + name, rows, cols, width, group)
        made.linear(at + down, H, 64, 3, 64)
        names = (
            ("input_layernorm", "post_attention_layernorm")
            if qwen
            else ("operator_norm", "ffn_norm")
        )
        for name in names:
            made.norm(at + name, about=about)
    made.norm("model.norm" if qwen else "model.embedding_norm", about=about)
    return made


def values_of(matrix: Matrix, word: bytes, scales: bytes) -> np.ndarray:
    """float32 [rows, cols] that the bytes of a matrix on the GPU stand for, by graph/matrix.py."""
    words = np.frombuffer(word, "<u4")[: -(-matrix.rows * matrix.cols // PER_WORD[matrix.format])]
    shape = matrix.rows, matrix.cols
    if matrix.format == "f32":
        return words.view("<f4").reshape(shape)
    if matrix.format == "f16":
        return words.view("<f2").astype(np.float32).reshape(shape)
    if matrix.format == "bf16":
        return from_bf16(words.view("<u2")).reshape(shape)
    bits = 8 if matrix.format == "q8" else 4
    shifts = (bits * np.arange(32 // bits)).astype(np.uint32)
    fields = (words[:, None] >> shifts & np.uint32(2**bits - 1)).reshape(shape).astype(np.float32)
    pairs = np.frombuffer(scales, "<u4")
    if matrix.scale_format == "f32":
        sides = pairs.view("<f4")
    else:
        halves = pairs.view("<u2")
        sides = (
            halves.view("<f2").astype("f4") if matrix.scale_format == "f16" else from_bf16(halves)
        )
    groups = matrix.rows * matrix.cols // matrix.group_size
    wide = [
        np.repeat(side.reshape(matrix.rows, -1), matrix.group_size, -1)
        for side in sides[: 2 * groups].reshape(groups, 2).T
    ]
    found: np.ndarray = fields * wide[0] + wide[1]
    return found


PER_WORD = {"f32": 1, "f16": 2, "bf16": 2, "q4": 8, "q8": 4}


def test_every_pair_lies_as_its_file_says(
    open_software_gpu: Callable[..., Gpu], run: Runner, tmp_path: Path
) -> None:
    """The buffers of every pair, with equal and with different group sizes, hold the file's values bit for bit."""
    made, gpu = Made({"model_type": "llama"}, 5), open_software_gpu("dawn")
    stacks: list[list[str]] = []
    for (a, b), groups in itertools.product(PAIRS, ((64, 64), (32, 128))):
        stacks.append([f"{len(stacks)}.{which}" for which in "xyz"])
        for name, kind, group, rows in zip(
            stacks[-1], (a, b, a), (*groups, groups[0]), (3, 5, 2), strict=True
        ):
            made.linear(name, rows, H, kind, group)
    folder = made.packed.write(tmp_path / "model")

    async def load() -> list[tuple[np.ndarray, int]]:
        repository = await open_repository(folder, NativeIo())
        tensors = await read_tensors(repository)
        packing = quantization_of(tensors, quantization(made.packed.config))
        store = WeightStore(gpu, tensors, packing, form="stored", family="test")
        kernels = Kernels(gpu)
        try:
            linears = [store.linear(names, (3, 5, 2), H) for names in stacks]
            await Loader(gpu, kernels, repository, lambda _: None, Abort()).run(store.jobs)
            found = []
            for linear in linears:
                parts = []
                for part in linear.parts:
                    assert part.weight.binding is not None
                    word = await gpu.read(part.weight.binding.buffer)
                    scales = b""
                    if part.scales is not None:
                        assert part.scales.binding is not None
                        scales = await gpu.read(part.scales.binding.buffer)
                    parts.append(values_of(part, word, scales))
                found.append((np.concatenate(parts), len(parts)))
            return found
        finally:
            await kernels.settle()
            store.release()
            await repository.close()

    for names, (values, parts) in zip(stacks, run(load()), strict=True):
        wanted = np.concatenate([made.plain.tensors[f"{name}.weight"].array for name in names])
        assert np.array_equal(values, wanted), names
        assert 1 <= parts <= 3


CASES: list[Any] = [
    pytest.param(lambda: dense(0), id="pairs-0"),
    *(
        pytest.param(lambda i=i: dense(i), id=f"pairs-{i}", marks=pytest.mark.slow)
        for i in range(1, len(PAIRS) // LAYERS)
    ),
    pytest.param(lambda: hybrid("qwen3_5"), id="qwen3_5", marks=pytest.mark.slow),
    pytest.param(lambda: hybrid("lfm2"), id="lfm2"),
]


@pytest.mark.parametrize("make", CASES)
def test_mixed_is_what_it_stands_for(
    make: Callable[[], Made],
    open_software_gpu: Callable[..., Gpu],
    run: Runner,
    tmp_path: Path,
) -> None:
    made, gpu = make(), open_software_gpu("dawn")
    got = []
    for name, checkpoint in (("packed", made.packed), ("plain", made.plain)):
        folder = checkpoint.write(tmp_path / name)
        engine = run(Engine.load(folder, gpu=gpu, dtype="f32", context=64))
        # A chunk and a single token run through different kernels.
        whole = run(engine.logits(IDS))
        one = run(engine.logits(IDS[:1]))
        got.append([np.frombuffer(x, np.float32).copy() for x in (whole, one)])
        run(engine.close())
    for packed, plain in zip(*got, strict=True):
        assert reference.nmse(packed, plain) <= reference.NMSE_F32


def test_all_pairs_are_tried() -> None:
    assert len(PAIRS) == len(KINDS) * (len(KINDS) - 1) == 4 * LAYERS
