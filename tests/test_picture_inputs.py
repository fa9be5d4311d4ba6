"""What a picture may be given as, and what is refused: headers, damaged and hostile files, addresses, arrays."""

from __future__ import annotations

import base64
import io
import random
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from py_engine.errors import EngineError, HostError, HubError, InputError
from py_engine.host import open_io, pictures_native
from py_engine.host.io import Response
from py_engine.host.io_native import NativeIo
from py_engine.host.pictures import PixelBytes
from py_engine.pictures.exif import orientation_of
from py_engine.pictures.headers import read_header
from py_engine.pictures.picture import MAX_BYTES, Picture, read_picture
from tests.conftest import Runner

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
IO = open_io()


def shown(width: int = 31, height: int = 17, mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(width)
    array = draw.integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(array if "A" in mode else array[..., :3].copy()).convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def pixels(shown: Picture) -> np.ndarray:
    assert isinstance(shown.pixels, PixelBytes)
    shape = (shown.height, shown.width, shown.pixels.channels)
    return np.frombuffer(shown.pixels.data, np.uint8).reshape(shape)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA"])
def test_files_are_what_pillow_makes_of_them(run: Runner, form: str, mode: str) -> None:
    if mode in {"JPEG": ("RGBA", "P", "LA"), "BMP": ("LA",)}.get(form, ()):
        pytest.skip(f"{form} has no {mode}")
    data = saved(shown(mode=mode), form)
    header = read_header(data)
    assert (header.format.upper(), header.size) == (form, (31, 17))
    found = run(read_picture(data, IO))
    assert (pixels(found) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert not found.note


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(run: Runner, form: str, orientation: int) -> None:
    data = saved(
        shown(), form, exif=exif(orientation), **({"lossless": True} if form == "WEBP" else {})
    )
    assert read_header(data).orientation == orientation
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = run(read_picture(data, IO))
    assert (found.width, found.height) == wanted.size == read_header(data).size
    assert (pixels(found) == np.asarray(wanted)).all()


def test_grey_of_16_bits_keeps_its_high_bytes(run: Runner) -> None:
    array = np.random.default_rng(5).integers(0, 1 << 16, (17, 31), np.uint16)
    found = run(read_picture(saved(Image.fromarray(array), "PNG"), IO))
    assert (pixels(found) == (array >> 8)[..., None]).all()


def test_orientation_of_damaged_exif() -> None:
    whole = exif(6)[6:]
    assert orientation_of(whole) == 6
    draw = random.Random(3)
    for cut in range(len(whole)):
        assert orientation_of(whole[:cut]) in range(1, 9)
    for _ in range(500):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] = draw.randrange(256)
        assert orientation_of(bytes(changed)) in range(1, 9)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animated_files_give_their_first_frame(run: Runner, form: str) -> None:
    frames = [shown(31 + i).resize((31, 17)) for i in range(3)]
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert read_header(data).animated
    found = run(read_picture(data, IO, what="image 2"))
    assert found.note == "image 2 is animated: only its first frame is seen"
    assert (pixels(found) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_all_ways_to_give_a_picture(run: Runner, tmp_path: Path) -> None:
    image = shown()
    array = np.asarray(image)
    data = saved(image, "PNG")
    (tmp_path / "a b.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    url_safe = text.rstrip("=").replace("+", "-").replace("/", "_")
    for value in (
        data,
        bytearray(data),
        memoryview(data),
        np.frombuffer(data, np.uint8),
        tmp_path / "a b.png",
        str(tmp_path / "a b.png"),
        f"data:image/png;base64,{text}",
        f"DATA:;base64,{url_safe}",
        f"data:image/png;base64,{text[:50]}%0A{text[50:]}",
        "data:image/png," + "".join(f"%{b:02x}" for b in data),
        array,
        np.asfortranarray(array),
        np.repeat(array, 2, 1)[:, ::2],
        image,
    ):
        found = run(read_picture(value, IO))
        assert (found.width, found.height) == (31, 17)
        assert (pixels(found) == array).all()
    for raw, channels in ((image.convert("RGBA"), 4), (image.convert("L"), 1), (image, 3)):
        found = run(read_picture(raw.tobytes(), IO, width=31, height=17))
        assert pixels(found).shape == (17, 31, channels)
    assert pixels(run(read_picture(array[..., 0], IO))).shape == (17, 31, 1)
    assert pixels(run(read_picture(array[..., :1], IO))).shape == (17, 31, 1)
    assert run(read_picture(found, IO)) is found


def test_digest_follows_the_content(run: Runner) -> None:
    array = np.array(shown())
    first = run(read_picture(array, IO)).digest
    assert len(first) == 32 and run(read_picture(array.copy(), IO)).digest == first
    kept = run(read_picture(array, IO))
    array[3, 3, 1] ^= 1
    assert run(read_picture(array, IO)).digest != first
    assert not (pixels(kept) == array).all()  # a later change of the array is not seen
    turned = array.reshape(31, 17, 3)
    assert run(read_picture(turned, IO)).digest != run(read_picture(array, IO)).digest


def png(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, with few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    data = saved(shown(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (b"", {}, "is empty: 0 bytes"),
    (b"hello", {}, "in no format that is known .it begins with 68 65 6c 6c 6f"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, "is an SVG drawing"),
    (b"<?xml version='1.0'?>\n<!-- x --><svg>", {}, "is an SVG drawing"),
    (b"<!DOCTYPE html><html>", {}, "is a web page or XML"),
    (b"%PDF-1.7", {}, "is a PDF document"),
    (b"\0\0\0\x18ftypheic\0\0\0\0", {}, "is an HEIC file"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0", {}, "is an HEIC file"),
    (b"\0\0\0\x1cftypavif\0\0\0\0", {}, "is an AVIF file"),
    (b"\0\0\0\x1cftypmp42\0\0\0\0", {}, "is a video, not a picture: give its frames"),
    (b"II*\0\x08\0\0\0", {}, "is a TIFF file"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", {}, "is a JPEG XL file"),
    (b"PK\3\4", {}, "is a ZIP archive"),
    (png(0, 9), {}, "is 0 x 9 pixels: it has no pixels"),
    (png(9, 0), {}, "no pixels"),
    (png(3000, 3), {}, "more than 200 times as long"),
    (png(100_000, 100_000), {}, "10,000,000,000 in all. This device takes at most 100,000,000"),
    (png(1 << 31, 1 << 31), {}, "make it smaller first"),
    (png(400, 500), {}, "damaged PNG file|image file is truncated"),
    (jpeg_of(60_000, 60_000), {}, "3,600,000,000 in all"),
    (jpeg_of(0, 17), {}, "no pixels"),
    ("no/such/file.png", {}, "there is no file 'no/such/file.png'"),
    ("a\0b", {}, "no file|cannot be read"),
    (".", {}, "no file|cannot be read"),
    ("https://example.org/a.png", {}, "Nothing is fetched unless"),
    ("HTTP://example.org/a.png", {"allow_urls": False}, "allow_urls=True"),
    ("ftp://example.org/a.png", {"allow_urls": True}, "of the kind ftp:, which is not supported"),
    ("file:///etc/passwd", {"allow_urls": True}, "of the kind file:"),
    ("data:image/png;base64", {}, "without a comma"),
    ("data:image/png;base64,@@@", {}, "base64 is damaged"),
    ("data:text/plain,hello", {}, "in no format that is known"),
    (None, {}, "is None: give a file's bytes"),
    (5, {}, "is 5: give a file's bytes"),
    ([[1, 2]], {}, "give a file's bytes"),
    (np.zeros((4, 4, 3), np.float32), {}, "an array of type 'f': give uint8"),
    (np.zeros((4, 4), np.int8), {}, "an array of type 'b'"),
    (np.zeros((4, 4, 3), bool), {}, "an array of type '\\?'"),
    (np.zeros((3, 40, 40), np.uint8), {}, "shape \\[3, 40, 40\\].* .colours come last"),
    (np.zeros((1, 4, 4, 3), np.uint8), {}, "shape \\[1, 4, 4, 3\\]"),
    (np.zeros((0, 4, 3), np.uint8), {}, "is 4 x 0 pixels"),
    (np.zeros((4, 0), np.uint8), {}, "is 0 x 4 pixels"),
    (np.zeros((1, 201, 3), np.uint8), {}, "more than 200 times"),
    (np.zeros((), np.uint8), {}, "in no format that is known"),
    (np.array(["x"], object), {}, "give a file's bytes|no format that is known"),
    (bytes(47), {"width": 4, "height": 4}, "has 47 bytes; 4 x 4 pixels have 48 as RGB, 64 as RGBA, 16 as grey"),
    (bytes(48), {"width": 4}, "give both width= and height="),
    (bytes(48), {"width": -4, "height": 4}, "width=-4: give a whole number"),
    (bytes(48), {"width": "4", "height": 4}, "width='4'"),
    (b"", {"width": 0, "height": 0}, "no pixels"),
    (bytes(48), {"width": 1 << 30, "height": 1 << 30}, "make it smaller first"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused_within_a_second(run: Runner, number: int) -> None:
    value, options, message = REFUSED[number]
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        run(read_picture(value, IO, what="image 1", **options))
    assert time.monotonic() - start < 1
    assert (
        "image 1" in str(caught.value)
        or "the picture" in str(caught.value)
        or "width" in str(caught.value)
    )


@pytest.mark.parametrize("form", FORMATS)
def test_cut_files_are_refused(run: Runner, form: str) -> None:
    data = saved(shown(), form)
    # A trailer may be missing: of a GIF, and what pads BMP and WebP.
    for cut in {*range(1, 60), *range(60, len(data) - 4, 37), len(data) * 2 // 3}:
        if cut < len(data) - 4:
            with pytest.raises(InputError):
                run(read_picture(data[:cut], IO))


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(min(len(changed), 120))
            kind = draw.randrange(3)
            if kind == 0:
                changed[place] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
            elif kind == 1:
                del changed[place : place + draw.randint(1, 9)]
            else:
                changed[place:place] = draw.randbytes(draw.randint(1, 9))
        yield bytes(changed)


@pytest.mark.parametrize("form", FORMATS)
def test_mutated_headers(run: Runner, form: str) -> None:
    """Whatever the bytes are, there is a picture of the size that its header said, or one of the engine's errors; and
    never a picture beyond the limits."""
    start, answers = time.monotonic(), {"picture": 0, "refused": 0}
    data = (
        saved(shown(), form, exif=exif(6))
        if form in ("PNG", "JPEG", "WEBP")
        else saved(shown(), form)
    )
    for changed in mutations(data, 300, len(data)):
        try:
            header = read_header(changed)
        except InputError:
            answers["refused"] += 1
            continue
        if header.width * header.height > 1 << 22:
            continue  # it may be decoded, but takes long
        try:
            found = run(read_picture(changed, IO))
            assert (found.width, found.height) == header.size
            answers["picture"] += 1
        except InputError:
            answers["refused"] += 1
    assert answers["picture"] > 0 and answers["refused"] > 5
    assert time.monotonic() - start < 30


class Server(NativeIo):
    """An Io whose network has one answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self.status, self.body = status, body
        self.asked: list[str] = []

    async def fetch(self, url: str, *args: Any, **options: Any) -> Response:
        self.asked.append(url)
        assert options == {"end": MAX_BYTES + 1}  # an endless answer is cut
        return Response(self.status, {}, self.body, url)


def test_addresses_are_fetched_only_where_allowed(run: Runner) -> None:
    server = Server(200, saved(shown(), "PNG"))
    address = "https://example.org/a.png?token=secret"
    with pytest.raises(InputError, match="allow_urls"):
        run(read_picture(address, server))
    assert server.asked == []
    assert (
        pixels(run(read_picture(address, server, allow_urls=True))) == np.asarray(shown())
    ).all()
    assert server.asked == [address]
    with pytest.raises(HubError, match="answered 404: no picture came") as caught:
        run(read_picture(address, Server(404, b""), allow_urls=True))
    assert "secret" not in str(caught.value)


def test_phones_take_smaller_pictures(run: Runner) -> None:
    class Phone(Server):
        handheld = True

    phone = Phone(200, b"")
    with pytest.raises(InputError, match="This device takes at most 51,000,000"):
        run(read_picture(png(8000, 8000), phone))
    with pytest.raises(InputError, match="damaged PNG"):  # as far as the decoder
        run(read_picture(png(8064, 6048), phone))


def test_without_pillow(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(shown(), "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(HostError, match="pip install 'jerboa\\[vision\\]'"):
        run(pictures_native.decode(data, "PNG", 1))
    assert run(read_picture(np.zeros((4, 4, 3), np.uint8), IO)).width == 4


def test_a_pil_image_that_cannot_be_read(run: Runner) -> None:
    data = saved(shown(200, 200), "PNG")
    image = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(EngineError, match="the PIL image cannot be read"):
        run(read_picture(image, IO))
