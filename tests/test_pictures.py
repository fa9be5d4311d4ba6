"""Pictures to patches, against transformers' image processors and Pillow: tests/goldens/make_pictures.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from py_engine.errors import InputError, ModelError
from py_engine.graph.kernels import kernels_of
from py_engine.graph.submit import GroupedSubmit, SingleSubmit
from py_engine.graph.trace import Tensor
from py_engine.host import open_io
from py_engine.host.gpu import Buffer, Gpu, Limits, Recording
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.pictures import Band, PixelBytes, Pixels
from py_engine.pictures import resizer
from py_engine.pictures.layout import plan_picture, plan_video
from py_engine.pictures.picture import Picture, read_picture
from py_engine.pictures.plan import Piece
from py_engine.pictures.reader import PictureReader, grid_rows
from py_engine.pictures.rules import Area, Rules, Tiles, rules_of
from py_engine.pictures.sizes import shortest_edge, smart_resize_frames
from py_engine.sources.config import Part
from tests.conftest import Runner

FOLDER = Path(__file__).parent / "goldens"


def recipe() -> ModuleType:
    """make_pictures.py, whose cases and pictures the results belong to."""
    spec = importlib.util.spec_from_file_location("make_pictures", FOLDER / "make_pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = recipe()
GOLDEN: dict[str, Any] = json.loads((FOLDER / "pictures/cases.json").read_text())
SIZES: dict[str, list[list[int]]] = json.loads((FOLDER / "pictures/sizes.json").read_text())


def rules(config: dict[str, Any]) -> Rules:
    vision = {"patch_size": RECIPE.PATCH.get(config["image_processor_type"], 16)}
    return rules_of(Part(config, file="preprocessor_config.json"), vision)


def reader(gpu: Gpu, given: Rules, **options: Any) -> PictureReader:
    return PictureReader(gpu, kernels_of(gpu), given, SingleSubmit(), **options)


def picture(array: np.ndarray) -> Picture:
    height, width, channels = array.shape
    return Picture(PixelBytes(array.tobytes(), width, height, channels), b"")


def steps(gpu: Gpu, run: Runner, tensor: Tensor, given: Rules) -> np.ndarray:
    """What the patches were before normalisation, as steps of 255. Frees the tensor."""
    raw = run(gpu.read(tensor.buffer, 0, tensor.nbytes))
    gpu.destroy_buffer(tensor.buffer)
    rows = np.frombuffer(raw, np.float32).reshape(tensor.shape).astype(np.float64)
    shape = (len(rows), -1, 3) if given.channels_last else (len(rows), 3, -1)
    side = (1, 1, 3) if given.channels_last else (1, 3, 1)
    mean, std = (np.reshape(v, side) for v in (given.mean, given.std))
    found: np.ndarray = ((rows.reshape(shape) * std + mean) * 255).reshape(tensor.shape)
    return found


@pytest.mark.parametrize("number", range(len(RECIPE.CASES)))
def test_patches_equal_transformers(gpu: Gpu, run: Runner, number: int) -> None:
    """Pixels within one step of 255, every place of a row and the order of rows exactly."""
    config, width, height = RECIPE.CASES[number]
    given = rules(config)
    read = reader(gpu, given)
    plan, wanted = read.plan(width, height), GOLDEN["cases"][number]
    assert [list(p.grid) for p in plan.pieces] == [w["grid"] for w in wanted]
    assert plan.rows == sum(p.rows for p in plan.pieces)
    assert all(p.rows == grid_rows(given, p.grid) for p in plan.pieces)
    tensors = load_file(FOLDER / "pictures/patches.safetensors")
    shown, live = picture(RECIPE.picture(number, width, height)), gpu.counters.live_buffers
    for i, piece in enumerate(plan.pieces):
        tensor = run(read.patches(shown, piece))
        assert tensor.shape == (piece.patches, given.row)
        got = steps(gpu, run, tensor, given)[wanted[i]["rows"]]
        assert np.abs(got - tensors[f"{number}.{i}"]).max() < 1.01
    assert gpu.counters.live_buffers == live


def test_video_equals_transformers(gpu: Gpu, run: Runner) -> None:
    """Five frames: the last one stands twice in its step."""
    width, height = RECIPE.FRAME
    config = {**RECIPE.VIDEO, "image_processor_type": "Qwen2VLImageProcessor"}
    read = reader(gpu, rules(config))
    times = [i / 2 for i in range(RECIPE.FRAMES)]
    plan = read.plan_video(width, height, RECIPE.FRAMES, times)
    assert list(plan.piece.grid) == GOLDEN["video"]["grid"]
    assert plan.times == [0.25, 1.25, 2.0]
    assert plan.rows == 3 * plan.rows_each
    frames = [picture(RECIPE.picture(i, width, height)) for i in range(RECIPE.FRAMES)]
    got = steps(gpu, run, run(read.video_patches(frames, plan)), read.video_rules)
    wanted = load_file(FOLDER / "pictures/patches.safetensors")["video"]
    assert np.abs(got[GOLDEN["video"]["rows"]] - wanted).max() < 1.01
    with pytest.raises(InputError, match="frame 1 of the video has 10 x 10"):
        run(
            read.video_patches(
                [frames[0], picture(np.zeros((10, 10, 3), np.uint8)), *frames[2:]], plan
            )
        )
    with pytest.raises(InputError, match="1 frames for the plan of a video of 5"):
        run(read.video_patches(frames[:1], plan))


def test_bands_change_nothing(gpu: Gpu, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little of a picture is on the GPU at a time, as Pillow resizes it: rows first, and columns first."""
    from PIL import Image

    read = reader(gpu, rules(RECIPE.QWEN))
    for size, target in (((301, 90), (150, 64)), ((75, 301), (96, 64))):
        given = RECIPE.picture(1, *size)
        wanted = np.asarray(Image.fromarray(given).resize(target, Image.Resampling.BICUBIC))
        piece = Piece(target, (13, 5, target[0] - 20, target[1] - 9), (1, 1, 1), 1)
        for band, middle in ((1, 1), (7000, 64 * 4 * 90), (1 << 24, 1 << 24)):
            monkeypatch.setattr(resizer, "BAND_BYTES", band)
            monkeypatch.setattr(resizer, "MIDDLE_BYTES", middle)
            raw = run(read.pixels(picture(given), piece))
            got = np.frombuffer(raw, np.uint8).reshape(piece.box[3], piece.box[2], 4)[..., :3]
            assert (got == wanted[5 : 5 + piece.box[3], 13 : 13 + piece.box[2]]).all()


class PaperGpu(CountingGpu):
    """Counts; what is submitted does nothing."""

    async def replay(self, recording: Recording) -> None:
        assert recording.command_buffers


class Paper(Pixels):
    """A picture of any size without pixels."""

    channels = 4

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self.loads = width, height, 0

    def band_bytes(self, rows: int) -> int:
        return 4 * rows * self.width

    async def load(self, gpu: Gpu, buffer: Buffer, top: int, rows: int) -> Band:
        assert 0 <= top < top + rows <= self.height and self.band_bytes(rows) <= buffer.nbytes
        self.loads += 1
        return Band(0, self.width, 1)


@pytest.mark.parametrize(
    "size",
    [(8064, 6048), (6048, 8064), (60_000, 800), (800, 60_000), (20_000, 5_000), (3024, 4032)],
)
def test_memory_for_a_large_picture(run: Runner, size: tuple[int, int]) -> None:
    """48 megapixels, and shapes of 48 and 100: what is on the GPU while a phone makes one megapixel of it."""
    gpu = PaperGpu()  # WebGPU's default limits
    limits = {"shortest_edge": 65536, "longest_edge": 16777216}
    qwen = published("Qwen2VLImageProcessor", patch_size=16, size=limits)
    read, paper = reader(gpu, qwen, max_pixels=1 << 20), Paper(*size)
    piece = read.plan(*size).pieces[0]
    tensor = run(read.patches(Picture(paper, b""), piece))
    assert tensor.nbytes == read.patch_bytes(piece) <= 4 * 6 << 20
    # The result, its pixels, and what resizing holds beside them.
    assert gpu.peak_bytes <= tensor.nbytes + 4 * (1 << 20) + (70 << 20)
    assert gpu.counters.live_bytes == tensor.nbytes
    # Each row came once, but those at the borders of groups.
    assert paper.loads * resizer.BAND_BYTES <= 2 * paper.band_bytes(size[1]) + (32 << 20)


def test_one_command_buffer_at_a_time(gpu: Gpu, run: Runner) -> None:
    """As WebKit wants it."""
    given = rules(RECIPE.QWEN)
    read = PictureReader(gpu, kernels_of(gpu), given, GroupedSubmit(1))
    number = 1
    _, width, height = RECIPE.CASES[number]
    shown = picture(RECIPE.picture(number, width, height))
    tensor = run(read.patches(shown, read.plan(width, height).pieces[0]))
    wanted = load_file(FOLDER / "pictures/patches.safetensors")[f"{number}.0"]
    rows = GOLDEN["cases"][number][0]["rows"]
    assert np.abs(steps(gpu, run, tensor, given)[rows] - wanted).max() < 1.01


def published(name: str, **values: Any) -> Rules:
    return rules({"image_processor_type": name, **values})


def test_sizes_equal_transformers() -> None:
    limits = {"shortest_edge": 65536, "longest_edge": 16777216}
    qwen = published("Qwen2VLImageProcessor", patch_size=16, size=limits)
    lfm2, naflex = published("Lfm2VlImageProcessor"), published("Siglip2ImageProcessor")
    for w, h, *wanted in SIZES["qwen"]:
        assert list(plan_picture(qwen, w, h).pieces[0].size) == wanted, (w, h)
    for w, h, *wanted in SIZES["naflex"]:
        assert list(plan_picture(naflex, w, h).pieces[0].size) == wanted, (w, h)
    for w, h, across, down, columns, rows in SIZES["lfm2"]:
        plan = plan_picture(lfm2, w, h)
        assert plan.tiles == (rows, columns), (w, h)
        assert plan.pieces[-1].size == (across, down), (w, h)
        tiles = [(p.row, p.column) for p in plan.pieces if p.kind == "tile"]
        places = [(r + 1, c + 1) for r in range(rows) for c in range(columns)]
        assert tiles == (places if rows * columns > 1 else [])
        assert len(plan.pieces) == (rows * columns + 1 if tiles else 1)
    for w, h, *wanted in SIZES["shortest"]:
        assert list(shortest_edge(w, h, 224)) == wanted, (w, h)
    for w, h, frames, *wanted in SIZES["video"]:
        found = smart_resize_frames(w, h, frames, 2, 32, 128 * 1024, 768 * 1024 * 4)
        assert list(found) == wanted, (w, h, frames)


def test_max_pixels() -> None:
    """A device's limit lowers those of the model, and never raises them."""
    limits = {"shortest_edge": 65536, "longest_edge": 16777216}
    qwen = published("Qwen2VLImageProcessor", patch_size=16, size=limits)
    for most in (1 << 20, 50_000):
        size = plan_picture(qwen.within(most), 4000, 3000).pieces[0].size
        assert 0.8 * most < size[0] * size[1] <= most
    assert qwen.within(None) is qwen
    assert plan_picture(qwen.within(1 << 30), 64, 64) == plan_picture(qwen, 64, 64)
    lfm2 = published("Lfm2VlImageProcessor")
    plan = plan_picture(lfm2.within(1 << 20), 4000, 3000)
    assert plan.tiles == (2, 2) and len(plan.pieces) == 5
    assert len(plan_picture(lfm2.within(1 << 18), 4000, 3000).pieces) == 1
    sizing = lfm2.within(1 << 25).sizing
    assert isinstance(sizing, Tiles) and sizing.largest == 10
    naflex = published("Siglip2ImageProcessor").within(16 * 16 * 50)
    assert plan_picture(naflex, 800, 600).pieces[0].patches <= 50


def test_patches_fit_one_binding(gpu: Gpu) -> None:
    """16 megapixels of Qwen's patches are 400 MB: on a device that binds 128 MiB at a time pictures are smaller."""
    limits = {"shortest_edge": 65536, "longest_edge": 16777216}
    qwen = published("Qwen2VLImageProcessor", patch_size=16, size=limits)
    read = reader(gpu, qwen)
    piece = read.plan(8064, 6048).pieces[0]
    assert read.patch_bytes(piece) <= gpu.limits.max_binding_bytes
    assert Limits().max_binding_bytes == 128 << 20


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"image_processor_type": "FlavaImageProcessor"},
            "'FlavaImageProcessor', which is not supp",
        ),
        ({"image_processor_type": ["x"]}, "is \\['x'\\], which"),
        ({}, "is None, which"),
        ({**RECIPE.QWEN, "patch_size": 0}, "patch_size is 0, expected an integer from 1"),
        ({**RECIPE.QWEN, "temporal_patch_size": 3}, "temporal_patch_size is 3"),
        ({**RECIPE.QWEN, "resample": 1}, "resample is 1; supported are 2"),
        ({**RECIPE.QWEN, "image_std": [0.5, 0, 0.5]}, "image_std is 0, expected a number"),
        ({**RECIPE.QWEN, "image_mean": [0.5]}, "image_mean is \\[0.5\\], expected three"),
        ({**RECIPE.QWEN, "do_normalize": False}, "do_normalize is false"),
        (
            {**RECIPE.QWEN, "size": {"shortest_edge": 9, "longest_edge": 8}},
            "at least 9 pixels, but at most 8",
        ),
        ({**RECIPE.QWEN, "size": 5}, "size is 5"),
        ({**RECIPE.LFM2, "tile_size": 50}, "tile_size: .* do not go together"),
        ({**RECIPE.LFM2, "min_tiles": 5, "max_tiles": 4}, "do not go together"),
        ({**RECIPE.DINOV2, "size": {"shortest_edge": 30}}, "crop_size is 42 x 28, larger"),
        ({**RECIPE.DINOV2, "do_center_crop": False}, "only the shortest side has a size"),
        ({**RECIPE.SIGLIP, "size": {"height": 42, "width": 13}}, "smaller than a patch of 14"),
        ({**RECIPE.SIGLIP, "size": {"height": 42}}, "size.width is missing"),
    ],
)
def test_rules_that_are_wrong(config: dict[str, Any], message: str) -> None:
    vision = {"patch_size": 14}
    with pytest.raises(ModelError, match=message):
        rules_of(Part(config, file="preprocessor_config.json"), vision)


def test_plans_that_are_refused() -> None:
    qwen, lfm2 = rules(RECIPE.QWEN), rules(RECIPE.LFM2)
    for size, message in (
        ((0, 9), "0 x 9 pixels: it has no pixels"),
        ((9, 0), "no pixels at all"),
        ((201, 1), "more than 200 times as long"),
        ((1, 201), "more than 200 times as long"),
    ):
        with pytest.raises(InputError, match=message):
            plan_picture(qwen, *size)
    assert plan_picture(qwen, 200, 1).pieces
    for frames, times, message in (
        (1, [0.0], "a video of 1 frames: give 2 to"),
        (769, [0.0] * 769, "give 2 to 768"),
        (3, [0.0], "1 times for 3 frames"),
    ):
        with pytest.raises(InputError, match=message):
            plan_video(qwen, 64, 64, frames, times)
    with pytest.raises(InputError, match="takes no videos"):
        plan_video(lfm2, 64, 64, 4, [0.0] * 4)
    with pytest.raises(InputError, match="multiples of 2"):
        grid_rows(qwen, (1, 3, 4))


def test_picture_of_a_file_is_that_of_its_array(gpu: Gpu, run: Runner, tmp_path: Path) -> None:
    from PIL import Image

    given = RECIPE.picture(2, 61, 40)
    Image.fromarray(given).save(tmp_path / "a.png")
    read, io = reader(gpu, rules(RECIPE.QWEN)), open_io()
    piece = Piece((61, 40), (0, 0, 61, 40), (1, 1, 1), 1)
    for value in (tmp_path / "a.png", given):
        shown = run(read_picture(value, io))
        got = np.frombuffer(run(read.pixels(shown, piece)), np.uint8).reshape(40, 61, 4)
        assert (got[..., :3] == given).all()


def test_pictures_and_frames_are_no_larger_than_the_tower_takes(wgpu: Gpu) -> None:
    """A photo, and frames of a video each; LFM2-VL's tiles stay as its processor cuts them."""
    half = (0.5, 0.5, 0.5)
    qwen = Rules(Area(1 << 16, 1 << 24), 16, 2, "bicubic", half, half, frames=2, blocks=True)
    tiles = Tiles(64 << 10, 256 << 10, 512 << 10, 512, 2, 10, True)
    lfm2 = Rules(tiles, 16, 2, "bilinear", half, half, channels_last=True)

    def reader(rules: Rules) -> PictureReader:
        return PictureReader(wgpu, kernels_of(wgpu), rules, SingleSubmit(), most_patches=4096)

    assert 3500 <= reader(qwen).plan(4000, 3000).pieces[0].patches <= 4096
    times = [n / 2 for n in range(8)]
    _, down, across = reader(qwen).plan_video(1920, 1080, 8, times).piece.grid
    assert 2500 <= down * across <= 4096
    assert reader(lfm2).plan(4000, 3000) == plan_picture(lfm2, 4000, 3000)
