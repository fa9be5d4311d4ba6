"""Pictures in a real browser: what its own decoder and WebGPU give, against Pillow and the native host."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests_e2e.conftest import Probe
from tests_e2e.native import native

SIZE = 37, 21


def image(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Slopes with noise; of modes with alpha, pixels of every alpha, also 0."""
    draw = np.random.default_rng(3)
    y, x = np.mgrid[: size[1], : size[0]]
    array = np.stack([x * 5 % 256, y * 9 % 256, (x + y) * 4 % 256, (x * 31 + y * 7) % 256], -1)
    array[..., :3] = (array[..., :3] + draw.integers(0, 40, array[..., :3].shape)) % 256
    array[:, :4, 3], array[:, 4:8, 3] = 0, 255
    whole = Image.fromarray(array.astype(np.uint8), "RGBA")
    return whole if mode == "RGBA" else whole.convert("RGB").convert(mode)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def wide() -> Image.Image:
    """Wider than a texture may be."""
    return image("RGB", (8195, 42))


def grey16() -> Image.Image:
    array = np.random.default_rng(5).integers(0, 1 << 16, SIZE[::-1], np.uint16)
    return Image.fromarray(array)


def wanted(data: bytes) -> np.ndarray:
    opened = Image.open(io.BytesIO(data))
    if opened.mode == "I;16":  # Pillow would make white of nearly all
        high = (np.asarray(opened) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, -1)
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


LOSSLESS = {"lossless": True, "exact": True}
# Each with how many steps of 255 a pixel may be off. In Chromium 150 none is; other versions may decode otherwise.
FILES: dict[str, tuple[bytes, int]] = {
    **{f"PNG {mode}": (encoded(image(mode), "PNG"), 0) for mode in ("RGB", "RGBA", "L", "P", "1")},
    **{f"BMP {mode}": (encoded(image(mode), "BMP"), 0) for mode in ("RGB", "L", "P")},
    "PNG of 16 bits": (encoded(grey16(), "PNG"), 0),
    "GIF": (encoded(image("P"), "GIF"), 0),
    "WebP lossless": (encoded(image("RGB"), "WEBP", **LOSSLESS), 0),
    "WebP lossless, alpha": (encoded(image("RGBA"), "WEBP", **LOSSLESS), 0),
    "WebP": (encoded(image("RGB"), "WEBP", quality=80), 2),
    "JPEG": (encoded(image("RGB"), "JPEG", quality=90), 2),
    "JPEG 4:4:4": (encoded(image("RGB"), "JPEG", quality=90, subsampling=0), 2),
    "JPEG grey": (encoded(image("L"), "JPEG"), 2),
    "JPEG progressive": (encoded(image("RGB"), "JPEG", progressive=True), 2),
    "PNG with a gamma": (
        encoded(image("RGB"), "PNG")[:33]
        + bytes.fromhex("00000004 67414d41 000186a0 31e8965f".replace(" ", ""))
        + encoded(image("RGB"), "PNG")[33:],
        0,
    ),
    **{
        f"{form} orientation {n}": (encoded(image("RGB"), form, exif=exif(n), **options), steps)
        for form, steps, options in (("PNG", 0, {}), ("JPEG", 2, {}), ("WEBP", 0, LOSSLESS))
        for n in range(2, 9)
    },
    "wide": (encoded(wide(), "PNG"), 0),
    "wide, turned": (encoded(wide(), "PNG", exif=exif(6)), 0),
}


@pytest.mark.parametrize("band", [None, 3000, 40_000], ids=["whole", "bands", "wide bands"])
def test_pixels_equal_pillow(probe: Probe, band: int | None) -> None:
    files = {k: v for k, v in FILES.items() if band is None or ("wide" in k) == (band > 3000)}
    found = probe("decoded_pictures", [text(data) for data, _ in files.values()], band)
    assert isinstance(found, list), found
    off = {}
    for (name, (data, allowed)), (width, height, raw, note) in zip(
        files.items(), found, strict=True
    ):
        right = wanted(data)
        assert (height, width) == right.shape[:2] and not note
        got = np.frombuffer(base64.b64decode(raw), np.uint8).reshape(height, width, 4)[..., :3]
        steps = int(np.abs(got.astype(int) - right).max())
        if steps > allowed:
            off[name] = steps
    assert off == {}


def test_patches_are_bitwise_native(probe: Probe) -> None:
    file = text(encoded(image("RGB", (301, 203)), "PNG"))
    mine = probe("picture_patches", file)
    assert mine == native("picture_patches", file)
    assert mine[0] == mine[1] and mine[0][0] == [1, 6, 10]


def test_damaged_files(probe: Probe) -> None:
    png = bytearray(encoded(image("RGB"), "PNG"))
    png[60:70] = bytes(10)  # inside the packed pixels
    for data, message in (
        (bytes(png), "that this browser cannot decode"),
        (encoded(image("RGB"), "JPEG")[:-40], "ends early"),
        (b"<svg>", "SVG"),
    ):
        kind, said = probe("refused_picture", text(data))["error"]
        assert kind == "InputError" and message in said
