"""Makes the tiny random models that see pictures, tests/goldens/*-seen/, with what transformers computes of chats.

Run with a Python that has torch, torchvision, transformers, safetensors, tokenizers and Pillow:

    python tests/goldens/make_seen.py

The engine takes no part in this. Each folder is a whole repository: config.json, weights, tokenizer, chat template,
preprocessor_config.json. seen.npz holds for each of CHATS, after its name: `ids` as transformers' own processor writes
them (a picture's token repeated for each row), `logits` after the last one and `tokens`, 32 greedy ones, with their
`margins`, all in float32 on the CPU. `NAME.positions` [3, n]: get_rope_index of Qwen3.5. `picture_N` are the pictures,
uint8 [h, w, 3]; but for the last one, their sides are multiples of what the processor rounds to, so that no resizing
blurs a comparison (a thumbnail is resized, though). Qwen's pictures are resized by Pillow; LFM2-VL's processor has only
torchvision's resizing, which rounds otherwise. `grid_N`: their patches, time (if any), rows and columns;
`patches_0` [n, k] f32 what the processor makes of the first. The frames of the chat `video` are the first picture,
moved 8 pixels to the right from each to the next.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

HERE = Path(__file__).parent
NEW_TOKENS = 32
# (height, width) of the pictures.
SIZES = {
    "qwen3.5-seen": [(48, 80), (32, 32), (16, 64)],
    "lfm2-seen": [(48, 64), (32, 32), (64, 96)],
}
QWEN_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
LFM_TOKENS = [
    "<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>", "<|image_end|>",
    "<|img_thumbnail|>", *(f"<|img_row_{r}_col_{c}|>" for r in (1, 2, 3, 4) for c in (1, 2, 3, 4)),
]  # fmt: skip
# In the style of the published ones, shortened.
QWEN_TEMPLATE = """\
{%- macro written(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- else -%}
        {%- for item in content -%}
            {%- if item.type == 'image' or 'image_url' in item -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif item.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- else -%}{{- item.text -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>\\n' + written(message.content) + '\\n</tool_response><|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + written(message.content) + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is true -%}{{- '<think>\\n' -}}
    {%- else -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}
"""
LFM_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}{{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}{{- '<image>' -}}
            {%- elif item.type == 'text' -%}{{- item.text -}}
            {%- else -%}{{- item | tojson -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def said(role: str, *parts: Any) -> dict[str, Any]:
    """A message. A number stands for the picture of that number, a list for a video of these pictures' frames."""
    kinds = {int: "image", list: "video", str: "text"}
    return {
        "role": role,
        "content": [
            {"type": kinds[type(p)], **({"text": p} if isinstance(p, str) else {})} for p in parts
        ],
    }


# The parts of each chat, by name.
CHATS: dict[str, list[tuple[str, list[Any]]]] = {
    "one": [("user", [0, "What is this?"])],
    "two": [("user", ["First", 0, "then", 1, "which is larger?"])],
    "turns": [
        ("user", [1, "And?"]),
        ("assistant", ["A red square."]),
        ("user", ["Now this:", 0, 1]),
    ],
    "tiles": [("user", [2, "Where?"])],
    "resized": [("user", [3, "How large?"])],
}
VIDEO = [("user", [[0, 1, 2, 3, 4], "What moves?"])]
FPS = 2.0


def tokenizer_of(folder: Path, control: list[str], eos: str, bos: str | None) -> Any:
    """A token a byte, then the control tokens. Written to the folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in control])
    made.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"eos_token": eos, **({"bos_token": bos} if bos else {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(names) + "\n")
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def fill(model: Any, name: str) -> None:
    """Random weights that bfloat16 can hold. Pictures and early tokens must matter."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    gains = {
        "embed_tokens.weight": 0.3,
        "q_proj.weight": 1.8,
        "k_proj.weight": 1.8,
        "out_proj.weight": 2.0,
    }
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            shape = tuple(parameter.shape)
            values = rng.normal(0, 1, shape)
            if key.endswith("A_log"):
                values = np.log(rng.uniform(0.02, 0.5, shape))
            elif key.endswith("dt_bias"):
                values = 0.7 * values - 1.5
            elif "conv" in key and parameter.ndim == 3:
                values *= 0.6
            elif "position_embedding" in key or "pos_embed" in key:
                values *= 0.3
            elif parameter.ndim > 1:
                gain = next((g for end, g in gains.items() if key.endswith(end)), 1.3)
                columns = 1 if "embed_tokens" in key else int(np.prod(shape[1:]))
                values *= gain / np.sqrt(columns)
            elif key.endswith("bias"):
                values *= 0.3
            else:
                values = parameter.float().numpy() + 0.25 * values
            parameter.copy_(torch.from_numpy(values).bfloat16().float())


def qwen(folder: Path) -> tuple[Any, Any]:
    """Qwen3.5: DeltaNet and attention, M-RoPE in three sections, a tower with merged patches."""
    tokenizer = tokenizer_of(folder, QWEN_TOKENS, "<|im_end|>", None)
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": 264, "hidden_size": 44, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 60, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
        "linear_conv_kernel_dim": 4, "full_attention_interval": 2, "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
            "mrope_section": [4, 2, 2], "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 52, "out_hidden_size": 44,
        "patch_size": 8, "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 16,
        "in_channels": 3,
    }  # fmt: skip
    config = Qwen3_5Config(
        text_config=text, vision_config=vision, tie_word_embeddings=True,
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    sizes = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 256, "longest_edge": 8192}, **sizes, **half
    )
    videos = Qwen3VLVideoProcessor(
        size={"shortest_edge": 256, "longest_edge": 65536}, do_sample_frames=False, **sizes, **half
    )
    (folder / "video_preprocessor_config.json").write_text(videos.to_json_string())
    processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=QWEN_TEMPLATE)
    return Qwen3_5ForConditionalGeneration(config), processor


def lfm(folder: Path) -> tuple[Any, Any]:
    """LFM2-VL: short convolutions and attention, a SigLIP2 tower, pictures in tiles of 32 pixels."""
    tokenizer = tokenizer_of(folder, LFM_TOKENS, "<|im_end|>", "<|startoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": 282, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 1, "block_ff_dim": 72, "block_auto_adjust_ff_dim": False, "intermediate_size": 72,
        "conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv"],
        "max_position_embeddings": 2048, "eos_token_id": ids("<|im_end|>"), "bos_token_id": ids("<|startoftext|>"),
        "pad_token_id": ids("<|pad|>"), "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {
        "model_type": "siglip2_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 52, "patch_size": 8, "num_patches": 16, "num_channels": 3, "vision_use_head": False,
    }  # fmt: skip
    config = Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=ids("<image>"), projector_hidden_size=56,
        projector_use_layernorm=True, downsample_factor=2, tie_word_embeddings=True,
    )  # fmt: skip
    images = Lfm2VlImageProcessor(
        encoder_patch_size=8, downsample_factor=2, tile_size=32, min_image_tokens=4, max_image_tokens=16,
        min_tiles=2, max_tiles=8, max_num_patches=64, max_pixels_tolerance=1.0, do_image_splitting=True,
        use_thumbnail=True, return_row_col_info=True,
    )  # fmt: skip
    return Lfm2VlForConditionalGeneration(config), Lfm2VlProcessor(
        images, tokenizer, chat_template=LFM_TEMPLATE
    )


def pictures(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Smooth shapes with noise, the same each time; and one whose sides are odd."""
    made = []
    for n, (h, w) in enumerate([*sizes, (37, 61)]):
        rng = np.random.default_rng(n)
        y, x = np.mgrid[0:h, 0:w].astype(np.float64)
        waves = [np.sin(x / (5 + 3 * c) + n) * np.cos(y / (4 + 2 * c)) for c in range(3)]
        values = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 20, (h, w, 3))
        made.append(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return made


def measured(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Logits after the last id, and the greedy tokens with their margins."""
    with torch.no_grad():
        first = model(**inputs).logits[0, -1]
        answer = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    steps = torch.stack(answer.logits)[:, 0]
    best = steps.topk(2).values
    return {
        "ids": inputs["input_ids"][0].numpy().astype(np.int32),
        "logits": first.numpy(),
        "tokens": answer.sequences[0, -NEW_TOKENS:].numpy().astype(np.int32),
        "margins": (best[:, 0] - best[:, 1]).numpy(),
    }


def make(name: str, build: Any) -> None:
    """One folder with its seen.npz."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model, processor = build(folder)
    model = model.eval().float()
    model.set_attn_implementation("eager")
    fill(model, name)
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = model.float()
    template = processor.chat_template
    (folder / "chat_template.jinja").write_text(template)
    (folder / "preprocessor_config.json").write_text(processor.image_processor.to_json_string())
    found: dict[str, np.ndarray] = {"transformers": np.array(transformers.__version__)}
    made = pictures(SIZES[name])
    for n, picture in enumerate(made):
        found[f"picture_{n}"] = picture
        inputs = processor.image_processor(images=[Image.fromarray(picture)], return_tensors="pt")
        grid = inputs["image_grid_thw"] if "image_grid_thw" in inputs else inputs["spatial_shapes"]
        found[f"grid_{n}"] = grid.numpy()
        if n == 0:
            found["patches_0"] = inputs["pixel_values"].numpy()
    for chat, turns in CHATS.items():
        messages = [said(role, *parts) for role, parts in turns]
        seen = [Image.fromarray(made[p]) for _, parts in turns for p in parts if isinstance(p, int)]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = dict(processor(text=[text], images=seen, return_tensors="pt"))
        record(found, chat, model, inputs)
    if name.startswith("qwen"):
        frames = [np.roll(made[0], 8 * n, 1) for n in range(5)]
        text = processor.apply_chat_template(
            [said(role, *parts) for role, parts in VIDEO],
            tokenize=False,
            add_generation_prompt=True,
        )
        # This version of the processor keeps the template's marks around a video; earlier ones do not.
        text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
        metadata = {"fps": FPS, "total_num_frames": 5, "frames_indices": list(range(5))}
        inputs = dict(
            processor(
                text=[text],
                videos=[np.stack(frames)],
                video_metadata=[metadata],
                return_tensors="pt",
            )
        )
        found["video.grid"] = inputs["video_grid_thw"].numpy()
        record(found, "video", model, inputs)
    np.savez_compressed(folder / "seen.npz", **found)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(name, size)


def record(found: dict[str, np.ndarray], chat: str, model: Any, inputs: dict[str, Any]) -> None:
    """Measure a chat. Its pictures must matter."""
    kept = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    values = measured(model, kept)
    key = "pixel_values_videos" if "pixel_values_videos" in kept else "pixel_values"
    with torch.no_grad():
        other = model(**{**kept, key: kept[key].flip(0).flip(-1)}).logits[0, -1].numpy()
    moved = float(((other - values["logits"]) ** 2).mean() / (values["logits"] ** 2).mean())
    print(
        chat,
        len(values["ids"]),
        "moved",
        moved,
        "least margin",
        values["margins"].min(),
        "tokens",
        values["tokens"][:12],
    )
    assert moved > 1e-3, moved
    found.update({f"{chat}.{k}": v for k, v in values.items()})
    if hasattr(model.model, "get_rope_index"):
        grids = {k: kept[k] for k in ("image_grid_thw", "video_grid_thw") if k in kept}
        positions, _ = model.model.get_rope_index(
            kept["input_ids"], kept["mm_token_type_ids"], **grids
        )
        found[f"{chat}.positions"] = positions[:, 0].numpy().astype(np.int32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("qwen3.5-seen", qwen)
    make("lfm2-seen", lfm)
