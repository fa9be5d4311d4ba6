"""One checkpoint in the forms in which people publish it: every form must give the same logits, bit for bit.

The first form of each family is a golden that mlx_lm converted. test_goldens.py compares it with the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.checkpoints import Checkpoint, Stored, dequantise, write_tensors
from tests.conftest import Runner

IDS = [(7 * i) % 250 for i in range(21)]
QWEN, LFM = "qwen3.5-mlx4-g64", "lfm2-mlx4-g64"
PREFIX = {QWEN: "language_model.model.", LFM: "model."}  # of the body's tensors in MLX's files


@pytest.fixture(scope="module")
def gpu(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One host is enough, because only Python code differs."""
    return open_software_gpu("wgpu")


@pytest.fixture(scope="module")
def logits(gpu: Gpu, run: Runner) -> Callable[[str], np.ndarray]:
    """A function: folder -> its logits."""

    def of(folder: str) -> np.ndarray:
        engine = run(Engine.load(folder, gpu=gpu, dtype="f32", context=64))
        got = np.frombuffer(run(engine.logits(IDS)), np.float32).copy()
        run(engine.close())
        return got

    return of


@pytest.fixture(scope="module", params=[QWEN, LFM])
def base(
    request: pytest.FixtureRequest, logits: Callable[[str], np.ndarray]
) -> tuple[str, np.ndarray]:
    """The golden's name and its logits."""
    return request.param, logits(str(reference.folder(request.param)))


def rename(made: Checkpoint, name: str, wrapper: str) -> None:
    """Give the body's tensors another prefix."""
    made.rename(lambda old: old.replace(PREFIX[name], wrapper, 1))


def hf_names(made: Checkpoint, name: str) -> None:
    """The names of transformers' multimodal files, which MLX changes."""
    rename(made, name, "model.language_model.")


def text_names(made: Checkpoint, name: str) -> None:
    """The names of a text-only file."""
    rename(made, name, "model.")


def other_key(made: Checkpoint, name: str) -> None:
    """config.json has quantization_config, but no quantization."""
    made.config["quantization_config"] = made.config.pop("quantization")


def explicit(made: Checkpoint, name: str) -> None:
    """As mixed conversions write it: each layer has an override, with or without a mode; plain layers have `false`. The
    paths have another prefix than the weights, and no layer uses the default."""
    given = made.config["quantization"]
    entries: dict[str, object] = {"group_size": 128, "bits": 6}
    for number, key in enumerate(sorted(made.tensors)):
        if key.endswith(".scales"):
            stem = key.removesuffix(".scales")
            own = {"group_size": given["group_size"], "bits": given["bits"]} | given.get(stem, {})
            own.pop("mode", None)
            entries[stem] = own | ({"mode": "affine"} if number % 2 else {})
    entries["vision_tower.blocks.0.attn.qkv"] = False
    rename(made, name, "model.language_model." if name == QWEN else "language_model.model.")
    made.config["quantization"] = made.config["quantization_config"] = entries


def unrenamed(made: Checkpoint, name: str) -> None:
    """Quantised without MLX's changes: convolutions are [C, 1, taps], and Qwen3.5's norms are w instead of 1 + w."""
    for key, stored in made.tensors.items():
        if key.endswith(("conv1d.weight", "conv.conv.weight")):
            made.tensors[key] = Stored(stored.dtype, stored.array.transpose(0, 2, 1))
        elif name == QWEN and key.endswith("norm.weight") and "linear_attn" not in key:
            made.tensors[key] = Stored.of(stored.values - 1, "F32")  # exact


def with_company(made: Checkpoint, name: str) -> None:
    """A vision tower and a draft head in the same file, as mlx_vlm and transformers write them."""
    half = Stored.of(np.ones((6, 2, 2, 2, 3), np.float32), "BF16")
    for key in ("vision_tower.patch_embed.proj.weight", "model.visual.patch_embed.proj.weight"):
        made.tensors[key] = half
    for key in ("mtp.fc.weight", "mtp.layers.0.self_attn.q_proj.weight", "mtp.norm.weight"):
        made.tensors[key] = Stored.of(np.ones((8, 4), np.float32), "BF16")
    made.config["vision_config"] = {"model_type": "other", "hidden_size": 6}


def untied(made: Checkpoint, name: str) -> None:
    """The file has a head, packed as the embedding, with the same values."""
    head = "language_model.lm_head" if name == QWEN else "lm_head"
    stem = made.find("embed_tokens.weight").removesuffix(".weight")
    for part in ("weight", "scales", "biases"):
        made.tensors[f"{head}.{part}"] = made.tensors[f"{stem}.{part}"]
    made.config["tie_word_embeddings"] = made.text["tie_word_embeddings"] = False
    made.text.pop("tie_embedding", None)
    declared = made.config["quantization"]
    if stem in declared:
        declared[head] = declared[stem]


def tied_against_the_config(made: Checkpoint, name: str) -> None:
    """The file has no head, so the config is wrong."""
    made.config["tie_word_embeddings"] = made.text["tie_word_embeddings"] = False
    made.text.pop("tie_embedding", None)


FORMS = [hf_names, text_names, other_key, explicit, unrenamed, with_company, untied]


@pytest.mark.parametrize("form", [*FORMS, tied_against_the_config], ids=lambda f: f.__name__)
def test_same_logits_in_every_form(
    base: tuple[str, np.ndarray],
    logits: Callable[[str], np.ndarray],
    tmp_path: Path,
    form: Callable[[Checkpoint, str], None],
) -> None:
    name, wanted = base
    made = Checkpoint.golden(name)
    form(made, name)
    assert (logits(made.write(tmp_path / "model")) == wanted).all()


def test_files_beside_the_model(
    base: tuple[str, np.ndarray], logits: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """The model is in shards, beside safetensors files of other things: a draft head, an adapter, a broken file."""
    name, wanted = base
    made = Checkpoint.golden(name)
    folder = tmp_path / "model"
    made.write(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(made.tensors)
    where: dict[str, str] = {}
    for shard in (1, 2):
        file = f"model-0000{shard}-of-00002.safetensors"
        part = {key: made.tensors[key] for key in names[shard - 1 :: 2]}
        write_tensors(folder / file, part)
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    junk = {made.find("layers.0.mlp.down_proj.weight" if name == QWEN else "layers.0.feed_forward.w2.weight"):
            Stored.of(np.zeros((4, 4), np.float32), "F32")}  # fmt: skip
    write_tensors(folder / "mtp.safetensors", junk)
    write_tensors(folder / "adapter.safetensors", junk)
    (folder / "consolidated.safetensors").write_bytes(b"nothing that can be read")
    assert (logits(str(folder)) == wanted).all()


def test_a_layer_left_plain(
    base: tuple[str, np.ndarray], logits: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    """The config may not mention the layer (mlx_lm) or have `false` for it (mlx_vlm). The file decides."""
    name, _ = base
    plain = dequantise(Checkpoint.golden(name), "F32")
    got = []
    for said in (False, True):
        made = Checkpoint.golden(name)
        end = "layers.1.mlp.up_proj" if name == QWEN else "layers.1.feed_forward.w3"
        stem = made.find(f"{end}.weight").removesuffix(".weight")
        made.tensors[f"{stem}.weight"] = plain.tensors[f"{stem}.weight"]
        for part in ("scales", "biases"):
            del made.tensors[f"{stem}.{part}"]
        if said:
            made.config["quantization"][stem] = False
        got.append(logits(made.write(tmp_path / str(said))))
    assert (got[0] == got[1]).all()
    assert reference.nmse(got[0], base[1]) < 1e-6  # the same values, stored as floats
