"""Writes pictures/: what transformers' image processors make of small pictures, and the sizes they choose.

Run with a Python that has torch, torchvision (LFM2-VL and videos have no other processor) and pillow:

    python tests/goldens/make_pictures.py

The pictures are computed (`picture`), so only results are stored: of each piece some rows of patches, as steps of 255
(what a value was before normalisation), which no rounding of floats moves.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parent / "pictures"
ROWS = 4  # stored of a piece: the first, the last, and some between
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "size": {"shortest_edge": 4096, "longest_edge": 20000}, **HALF,
}  # fmt: skip
QWEN_OLD = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "min_pixels": 3136,
    "max_pixels": 12000,
}
LFM2 = {
    "image_processor_type": "Lfm2VlImageProcessorFast", "encoder_patch_size": 16, "downsample_factor": 2,
    "min_image_tokens": 4, "max_image_tokens": 9, "tile_size": 64, "do_image_splitting": True, **HALF,
}  # fmt: skip
SIGLIP2 = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 20, "patch_size": 16}
DINOV2 = {
    "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 45}, "image_mean": [0.485, 0.456, 0.406],
    "crop_size": {"height": 28, "width": 42}, "image_std": [0.229, 0.224, 0.225], "resample": 3,
}  # fmt: skip
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 42, "width": 28}}
VIT = {"image_processor_type": "ViTImageProcessor", "size": 28}
CASES: list[tuple[dict[str, Any], int, int]] = [
    (QWEN, 50, 70), (QWEN, 300, 200), (QWEN, 33, 500), (QWEN, 20, 20), (QWEN, 96, 64), (QWEN, 1000, 30), (QWEN, 7, 90),
    (QWEN_OLD, 100, 61), (QWEN_OLD, 40, 40),
    (LFM2, 100, 80), (LFM2, 400, 200), (LFM2, 200, 421), (LFM2, 30, 31), (LFM2, 149, 128),
    (SIGLIP2, 100, 80), (SIGLIP2, 30, 201),
    (DINOV2, 50, 71), (DINOV2, 121, 90),
    (SIGLIP, 60, 60), (VIT, 33, 20),
]  # fmt: skip
PATCH = {"BitImageProcessor": 14, "SiglipImageProcessor": 14, "ViTImageProcessor": 14}
VIDEO = {"patch_size": 16, "size": {"shortest_edge": 4096, "longest_edge": 40000}, **HALF}
FRAMES, FRAME = 5, (90, 61)


def picture(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: slopes, edges and noise, another for every number."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    noise = (x * 7919 + y * 104729 + number * 1299709) * 2654435761 >> 13
    slope = (
        x * 255 // max(1, width - 1),
        y * 255 // max(1, height - 1),
        (x // 9 + y // 7) % 2 * 255,
    )
    return np.stack([(s + noise * (number % 3) * 40 // 256) % 256 for s in slope], -1).astype(
        np.uint8
    )


def steps(values: np.ndarray, config: dict[str, Any], mean: Any, std: Any) -> np.ndarray:
    """Rows of patches before normalisation, as whole steps of 255."""
    last = "Lfm2" in config["image_processor_type"] or "Siglip2" in config["image_processor_type"]
    rows = (
        values.reshape(len(values), -1, 3)
        if last
        else values.reshape(len(values), 3, -1).transpose(0, 2, 1)
    )
    rows = (rows.astype(np.float64) * std + mean) * 255
    assert np.abs(rows - rows.round()).max() < 0.01
    rows = rows.round().astype(np.uint8)
    return (rows if last else rows.transpose(0, 2, 1)).reshape(len(values), -1)


def stored(rows: np.ndarray, name: str, tensors: dict[str, np.ndarray]) -> list[int]:
    """Keep some rows; returns which."""
    places = sorted({round(i * (len(rows) - 1) / (ROWS - 1)) for i in range(ROWS)})
    tensors[name] = np.ascontiguousarray(rows[places])
    return places


def pieces(config: dict[str, Any], pixels: np.ndarray) -> list[tuple[list[int], np.ndarray]]:
    """(grid, rows of steps) of each piece, as transformers gives them."""
    import torch
    import transformers
    from PIL import Image

    name = config["image_processor_type"].removesuffix("Fast")
    slow = name if name.startswith("Lfm2") else f"{name}Pil"
    options = {k: v for k, v in config.items() if k != "image_processor_type"}
    processor = getattr(transformers, slow)(**options)
    image = Image.fromarray(pixels)
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    if name.startswith("Lfm2"):
        found = processor(torch.from_numpy(pixels).permute(2, 0, 1), return_tensors="np")
    else:
        found = processor(image, return_tensors="np")
    values = np.asarray(found["pixel_values"])
    if "image_grid_thw" in found:
        return [([int(n) for n in found["image_grid_thw"][0]], steps(values, config, mean, std))]
    if "spatial_shapes" in found:
        shapes = [[1, int(h), int(w)] for h, w in np.asarray(found["spatial_shapes"])]
        return [
            (s, steps(v[: s[1] * s[2]], config, mean, std))
            for s, v in zip(shapes, values, strict=True)
        ]
    p = PATCH[name]
    _, c, h, w = values.shape
    down, across = h // p, w // p
    rows = (
        values[0][:, : down * p, : across * p]
        .reshape(c, down, p, across, p)
        .transpose(1, 3, 0, 2, 4)
    )
    return [([1, down, across], steps(rows.reshape(down * across, -1), config, mean, std))]


def sizes() -> dict[str, list[list[int]]]:
    """For pictures of many sizes, what each rule with its published limits resizes them to."""
    from transformers import BitImageProcessorPil, Lfm2VlImageProcessor
    from transformers.image_transforms import get_resize_output_image_size
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as video_resize
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches,
    )

    draw = random.Random(14)
    found: dict[str, list[list[int]]] = {
        k: [] for k in ("qwen", "video", "lfm2", "naflex", "shortest")
    }
    lfm2 = Lfm2VlImageProcessor()
    edge = BitImageProcessorPil().size["shortest_edge"]
    wanted = [(48, 80), (80, 48), (512, 512), (1024, 512), (640, 512), (1, 1), (200, 1), (5, 1000)]
    while len(wanted) < 300:
        w, h = (int(2 ** draw.uniform(0, 12.5)) for _ in range(2))
        if max(w, h) <= 200 * min(w, h):
            wanted.append((w, h))
    for w, h in wanted:
        down, across = smart_resize(h, w, 32, 65536, 16777216)
        found["qwen"].append([w, h, across, down])
        frames = 2 + (w + h) % 60
        down, across = video_resize(frames, h, w, 2, 32, 128 * 1024, 768 * 1024 * 4)
        found["video"].append([w, h, frames, across, down])
        limits = {
            "min_image_tokens": 64,
            "max_image_tokens": 256,
            "encoder_patch_size": 16,
            "downsample_factor": 2,
        }
        across, down = lfm2.smart_resize(h, w, **limits)
        limits.pop("min_image_tokens")
        grid = (1, 1)
        if lfm2._is_image_too_large(h, w, **limits, max_pixels_tolerance=2.0):
            grid = lfm2._get_grid_layout(h, w, 2, 10, 512)[:2]
        found["lfm2"].append([w, h, across, down, *grid])
        down, across = get_image_size_for_max_num_patches(h, w, 16, 256)
        found["naflex"].append([w, h, across, down])
        given = np.broadcast_to(np.zeros((), np.uint8), (3, h, w))
        down, across = get_resize_output_image_size(
            given, edge, False, input_data_format="channels_first"
        )
        found["shortest"].append([w, h, across, down])
    return found


def video(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """A video of five frames, through Qwen3-VL's processor."""
    import torch
    from transformers import Qwen3VLVideoProcessor

    frames = np.stack([picture(i, *FRAME) for i in range(FRAMES)])
    processor = Qwen3VLVideoProcessor(**VIDEO)
    given = torch.from_numpy(frames).permute(0, 3, 1, 2)
    found = processor(
        [given], do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="np"
    )
    rows = steps(found["pixel_values_videos"], QWEN, np.full(3, 0.5), np.full(3, 0.5))
    grid = [int(n) for n in found["video_grid_thw"][0]]
    return {"grid": grid, "rows": stored(rows, "video", tensors)}


def main() -> None:
    """Write cases.json, sizes.json and patches.safetensors."""
    from safetensors.numpy import save_file

    TARGET.mkdir(exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    cases = []
    for number, (config, width, height) in enumerate(CASES):
        found = pieces(config, picture(number, width, height))
        cases.append(
            [
                {"grid": grid, "rows": stored(rows, f"{number}.{i}", tensors)}
                for i, (grid, rows) in enumerate(found)
            ]
        )
    (TARGET / "cases.json").write_text(json.dumps({"cases": cases, "video": video(tensors)}) + "\n")
    (TARGET / "sizes.json").write_text(json.dumps(sizes()) + "\n")
    save_file(tensors, TARGET / "patches.safetensors")


if __name__ == "__main__":
    main()
