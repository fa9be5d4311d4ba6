"""Makes the tiny random vision towers of tests/goldens/*-tower/ with the rows that transformers computes with them.

Run with a Python that has torch, transformers and safetensors:

    python tests/goldens/make_towers.py

The engine takes no part in this. tower.npz holds, for each picture i, `patches_i` float32 [t h w, k], `grid_i` [t, h,
w] and `rows_i` [n, width], all in float32. Tokenizers are those of the families' other goldens.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

HERE = Path(__file__).parent
Picture = tuple[np.ndarray, tuple[int, int, int], np.ndarray]


def randomised(model: Any, seed: int) -> Any:
    """The model with random weights, so large that attention and positions matter."""
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        wide = 2.0 / value[0].numel() ** 0.5 if value.dim() > 1 else 0.3
        if "position" in name or "pos_embed" in name or "token" in name:
            wide = 0.8
        middle = 1.0 if value.dim() == 1 and ("norm" in name and "weight" in name) else 0.0
        value.data = torch.randn_like(value) * wide + middle
        if "lambda1" in name:
            value.data = value.data + 0.7
    return model.eval()


def write(
    name: str, model: Any, config: dict[str, Any], pictures: list[Picture], origin: str | None
) -> None:
    """Write a checkpoint and its rows. `origin`: the golden whose tokenizer it gets."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    kept = {k: v if is_seen(k) else v.bfloat16() for k, v in load_file(file).items()}
    save_file(kept, file, metadata={"format": "pt"})
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    found: dict[str, Any] = {
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}"
    }
    for i, (patches, grid, rows) in enumerate(pictures):
        found |= {f"patches_{i}": patches, f"grid_{i}": np.array(grid), f"rows_{i}": rows}
    np.savez_compressed(folder / "tower.npz", **found)
    for file in ("tokenizer.json", "tokenizer_config.json") if origin else ():
        shutil.copy(HERE / origin / file, folder / file)


def is_seen(name: str) -> bool:
    """Whether a tensor has a part in the rows of a picture. Text models are only there to be loaded: bf16 is enough."""
    return "language_model" not in name and "lm_head" not in name


def plain(config: Any) -> dict[str, Any]:
    """config.json's content without what says nothing."""
    left: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    left.pop("transformers_version", None)
    return left


def noise(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Patches in -1..1, and rougher than pictures: multiples of 1/128, which compress."""
    return (rng.integers(-128, 129, (rows, cols)) / 128).astype(np.float32)


def qwen() -> None:
    """Blocks of 2 x 2 patches of 8 x 8 pixels; two pictures and a video of two frames."""
    text = json.loads((HERE / "qwen3.5-bf16" / "config.json").read_text())
    text = {
        **text.get("text_config", text),
        "hidden_size": 44,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
    }
    text |= {
        "layer_types": ["linear_attention", "full_attention"],
        "dtype": "float32",
        "vocab_size": 290,
    }
    vision = {
        "depth": 2, "hidden_size": 36, "num_heads": 3, "intermediate_size": 50, "patch_size": 8, "in_channels": 3,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 44, "num_position_embeddings": 25,
    }  # fmt: skip
    config = Qwen3_5Config(
        text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=270, video_token_id=271,
        vision_start_token_id=272, vision_end_token_id=273, dtype="float32",
    )  # fmt: skip
    model = randomised(Qwen3_5ForConditionalGeneration(config), 1)
    rng, pictures = np.random.default_rng(1), []
    for grid in ((1, 4, 6), (1, 10, 4), (2, 2, 4)):
        patches = noise(rng, int(np.prod(grid)), 384)
        with torch.no_grad():
            rows = model.model.visual(
                torch.tensor(patches), grid_thw=torch.tensor([grid])
            ).pooler_output
        pictures.append((patches, grid, rows.numpy()))
    write("qwen3.5-tower", model, plain(config), pictures, "qwen3.5-bf16")


def lfm2() -> None:
    """Patches of 4 x 4 pixels, a table of 4 x 4 positions; grids that are larger and smaller than it."""
    text = json.loads((HERE / "lfm2-bf16" / "config.json").read_text())
    text |= {"dtype": "float32", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}
    text.pop("full_attn_idxs", None)
    vision = {
        "model_type": "siglip2_vision_model", "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_channels": 3, "patch_size": 4, "num_patches": 16, "vision_use_head": False,
    }  # fmt: skip
    config = Lfm2VlConfig(
        text_config=text, vision_config=vision, projector_hidden_size=52, projector_use_layernorm=True,
        image_token_id=250, dtype="float32",
    )  # fmt: skip
    model = randomised(Lfm2VlForConditionalGeneration(config), 2)
    rng, pictures = np.random.default_rng(2), []
    for grid in ((1, 6, 10), (1, 2, 4), (1, 4, 4)):
        n = int(np.prod(grid))
        patches = noise(rng, n, 48)
        with torch.no_grad():
            found = model.model.get_image_features(
                torch.tensor(patches)[None],
                torch.tensor([grid[1:]]),
                torch.ones(1, n, dtype=torch.long),
            )
        pictures.append((patches, grid, found.pooler_output[0].numpy()))
    write("lfm2-vl-tower", model, plain(config), pictures, "lfm2-bf16")


def dinov2() -> None:
    """Patches of 14 x 14 pixels, a table of 5 x 5 positions; grids of other shapes and of the same."""
    config = Dinov2Config(
        hidden_size=36, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=3, image_size=70, patch_size=14,
    )  # fmt: skip
    model = randomised(Dinov2Model(config), 3)
    rng, pictures = np.random.default_rng(3), []
    for h, w in ((7, 4), (5, 5), (2, 3)):
        patches = noise(rng, h * w, 588)
        pixels = (
            patches.reshape(h, w, 3, 14, 14).transpose(2, 0, 3, 1, 4).reshape(1, 3, 14 * h, 14 * w)
        )
        with torch.no_grad():
            rows = model(torch.tensor(pixels)).last_hidden_state[0]
        pictures.append((patches, (1, h, w), rows.numpy()))
    write("dinov2-tower", model, plain(config), pictures, None)


if __name__ == "__main__":
    qwen()
    lfm2()
    dinov2()
