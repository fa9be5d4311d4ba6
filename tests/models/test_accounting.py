"""Every tensor of a checkpoint is read, known to belong to another part, reported or refused. Notes report where the
files and the config contradict each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from py_engine.errors import ModelError
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io_native import NativeIo
from py_engine.serve.engine import Engine
from py_engine.serve.options import Progress
from py_engine.sources.address import open_repository
from py_engine.sources.heads import settle_head
from py_engine.sources.safetensors import read_tensors
from tests import reference
from tests.checkpoints import Checkpoint, Stored, write_tensors
from tests.conftest import Runner

QWEN2, QWEN2_MLX, QWEN3, LFM, QWEN35, MLX = (
    "qwen2-f32",
    "qwen2-mlx4-g64",
    "qwen3-bf16",
    "lfm2-bf16",
    "qwen3.5-bf16",
    "lfm2-mlx4-g64",
)
IDS = [5, 9, 2, 77]


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough: nothing here depends on it."""
    return open_software_gpu("wgpu")


def some(*shape: int) -> Stored:
    """A tensor of ones, for a name that no family has."""
    return Stored.of(np.ones(shape, np.float32), "F32")


@pytest.mark.parametrize(
    ("name", "tensor", "shape"),
    [
        (QWEN2, "model.layers.1.self_attn.o_proj.bias", (60,)),
        (QWEN2, "model.layers.0.mlp.down_proj.bias", (60,)),
        (QWEN2, "model.layers.0.input_layernorm.bias", (60,)),
        (QWEN2, "model.layers.0.mlp.gate_proj.weight_scale_inv", (1,)),
        (QWEN2, "model.layers.0.mlp.gate_proj.biases", (1,)),
        (QWEN2, "model.norm.bias", (60,)),
        (QWEN2, "model.embed_tokens.extra", (60,)),
        (LFM, "model.layers.0.conv.conv.bias", (60,)),
        (QWEN35, "model.layers.0.linear_attn.conv1d.bias", (132,)),
        (QWEN35, "model.layers.0.linear_attn.D", (3,)),
        (QWEN35, "model.layers.3.self_attn.q_norm.bias", (32,)),
        (MLX, "model.layers.0.conv.in_proj.bias", (192,)),
    ],
)
def test_beside_a_tensor_in_use_it_is_refused(
    run: Runner, tmp_path: Path, name: str, tensor: str, shape: tuple[int, ...]
) -> None:
    made = Checkpoint.golden(name)
    made.tensors[tensor] = some(*shape)
    folder = made.write(tmp_path / "m")
    for act in (Engine.load, Engine.estimate):
        counting = CountingGpu()
        with pytest.raises(ModelError, match=f"{tensor}, which config.json does not ask for"):
            run(act(folder, gpu=counting, context=64))
        assert counting.counters.live_buffers == 0


class Told:
    """One load: its notes and logits."""

    def __init__(self, run: Runner, gpu: Gpu, folder: str) -> None:
        self.notes: list[str] = []

        def hear(progress: Progress) -> None:
            if progress.phase == "note":
                self.notes.append(progress.message)

        engine = run(Engine.load(folder, gpu=gpu, dtype="f32", context=64, on_progress=hear))
        self.logits = np.frombuffer(run(engine.logits(IDS)), np.float32).copy()
        self.weights_bytes = engine.info()["memory"]["weights_bytes"]
        run(engine.close())


@pytest.fixture(scope="module")
def usual(run: Runner, gpu: Gpu) -> Told:
    """The checkpoint as it is."""
    return Told(run, gpu, str(reference.folder(QWEN2)))


def test_a_whole_checkpoint_has_nothing_to_tell(usual: Told) -> None:
    assert usual.notes == []


def test_what_is_left_is_told(run: Runner, gpu: Gpu, usual: Told, tmp_path: Path) -> None:
    """Notes also report what has no effect in the other files. Parts of a multimodal model and buffers are not
    reported."""
    made = Checkpoint.golden(QWEN2)
    made.tensors |= {
        "model.layers.0.self_attn.q_norm.weight": some(20),
        "model.layers.9.mlp.up_proj.weight": some(2, 2),
        "model.layers.0.self_attn.rotary_emb.inv_freq": some(10),
        "visual.patch_embed.weight": some(3),
        "mtp.fc.weight": some(3),
    }
    folder = Path(made.write(tmp_path / "m"))
    index = {name: "model.safetensors" for name in made.tensors if "layers.1.mlp" not in name}
    index["model.layers.0.self_attn.no_such"] = "model.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "generation_config.json").write_text('{"do_sample": true, "typical_p": 0.9}')
    told = Told(run, gpu, str(folder))
    assert (told.logits == usual.logits).all()
    words = ("forgets", "in no file", "typical_p", "does not read")
    forgotten, invented, unapplied, left = (
        next(note for note in told.notes if word in note) for word in words
    )
    assert len(told.notes) == len(words)
    assert "forgets" in forgotten and "model.layers.1.mlp" in forgotten
    assert "in no file: model.layers.0.self_attn.no_such" in invented
    assert "typical_p" in unapplied
    assert left.endswith(
        "model.layers.0.self_attn.q_norm.weight, model.layers.9.mlp.up_proj.weight."
    )


def test_a_head_that_repeats_the_embedding_takes_no_memory(
    run: Runner, gpu: Gpu, usual: Told, tmp_path: Path
) -> None:
    made = Checkpoint.golden(QWEN2)
    made.tensors["lm_head.weight"] = made.tensors["model.embed_tokens.weight"]
    for said in (True, None):
        made.config["tie_word_embeddings"] = said
        told = Told(run, gpu, made.write(tmp_path / str(said)))
        assert told.notes == [] and told.weights_bytes == usual.weights_bytes
        assert (told.logits == usual.logits).all()


def test_a_head_that_differs_is_used_and_told(
    run: Runner, gpu: Gpu, usual: Told, tmp_path: Path
) -> None:
    """The head differs in its last row only, as where tokens were added."""
    made = Checkpoint.golden(QWEN2)
    head = made.tensors["model.embed_tokens.weight"].array.copy()
    head[-1] *= 2
    made.tensors["lm_head.weight"] = Stored("F32", head)
    made.config["tie_word_embeddings"] = True
    told = Told(run, gpu, made.write(tmp_path / "m"))
    assert told.logits[:-1] == pytest.approx(usual.logits[:-1], rel=1e-5, abs=1e-5)
    assert told.logits[-1] == pytest.approx(2 * usual.logits[-1], rel=1e-5)
    (note,) = told.notes
    assert "tie_word_embeddings true, but lm_head.weight differs" in note
    estimate = run(Engine.estimate(str(tmp_path / "m"), gpu=CountingGpu(), context=64))
    assert estimate.by_kind["weights_bytes"] == told.weights_bytes


def test_no_head_though_the_config_wants_one_is_told(
    run: Runner, gpu: Gpu, usual: Told, tmp_path: Path
) -> None:
    made = Checkpoint.golden(QWEN2)
    made.config["tie_word_embeddings"] = False
    told = Told(run, gpu, made.write(tmp_path / "m"))
    assert (told.logits == usual.logits).all()
    (note,) = told.notes
    assert "tie_word_embeddings false, but the weights hold no lm_head.weight" in note


def test_a_bias_of_a_head_that_repeats_the_embedding_is_refused(
    run: Runner, tmp_path: Path
) -> None:
    made = Checkpoint.golden(QWEN2)
    made.tensors["lm_head.weight"] = made.tensors["model.embed_tokens.weight"]
    made.tensors["lm_head.bias"] = some(made.config["vocab_size"])
    with pytest.raises(ModelError, match=r"lm_head\.bias, which config.json does not ask for"):
        run(Engine.estimate(made.write(tmp_path / "m"), gpu=CountingGpu(), context=64))


def settled(run: Runner, made: Checkpoint, folder: Path) -> bool:
    """Whether the checkpoint counts as tied: its head, if any, equals the embedding."""

    async def go() -> bool:
        repo = await open_repository(made.write(folder), NativeIo())
        config = {**made.config, "tie_word_embeddings": True}
        tensors = await read_tensors(repo)
        return bool(
            (await settle_head(repo, config, tensors, lambda _: None))["tie_word_embeddings"]
        )

    return run(go())


def test_scales_tell_a_packed_head_from_the_embedding(run: Runner, tmp_path: Path) -> None:
    """A head of twice the embedding has the same packed fields; only its scales differ."""
    made = Checkpoint.golden(QWEN2_MLX)
    for part in ("weight", "scales", "biases"):
        made.tensors[f"lm_head.{part}"] = made.tensors[f"model.embed_tokens.{part}"]
    assert settled(run, made, tmp_path / "same")
    scales = made.tensors["model.embed_tokens.scales"]
    made.tensors["lm_head.scales"] = Stored.of(2 * scales.values, scales.dtype)
    assert not settled(run, made, tmp_path / "other")


def test_a_draft_heads_own_embedding_does_not_hide_the_texts(run: Runner, tmp_path: Path) -> None:
    made = Checkpoint.golden(QWEN2)
    embedding = made.tensors["model.embed_tokens.weight"]
    made.tensors["lm_head.weight"] = Stored(embedding.dtype, 2 * embedding.array)
    made.tensors["mtp.embed_tokens.weight"] = embedding
    assert not settled(run, made, tmp_path / "m")


def test_a_missing_shard_names_its_file(run: Runner, tmp_path: Path) -> None:
    made = Checkpoint.golden(QWEN2)
    folder = Path(made.write(tmp_path / "m"))
    (folder / "model.safetensors").unlink()
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    names = sorted(made.tensors)
    write_tensors(folder / first, {name: made.tensors[name] for name in names[::2]})
    index = dict.fromkeys(names[::2], first) | dict.fromkeys(names[1::2], second)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ModelError, match=second):
        run(Engine.estimate(str(folder), gpu=CountingGpu(), context=64))
