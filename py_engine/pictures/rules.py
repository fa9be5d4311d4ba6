"""How a model wants its pictures: preprocessor_config.json (or the image processor in processor_config.json), checked.

The names of image processors are transformers' (5.24), with or without "Fast" or "Pil" behind them. A key that the file
leaves out has the default of transformers' class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from py_engine.errors import ModelError
from py_engine.ops.resample import Filter
from py_engine.sources.config import (
    Config,
    Part,
    named,
    part,
    require_bool,
    require_float,
    require_int,
    short,
)
from py_engine.sources.repository import Repository

FILES = ("preprocessor_config.json", "processor_config.json")
VIDEO_FILE = "video_preprocessor_config.json"
MAX_SIDE = 1 << 14  # pixels of a side that a config may ask for
MAX_AREA = 1 << 28

_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_Colours = tuple[float, float, float]
# Pillow's numbers for its filters (PIL.Image.Resampling).
_FILTERS: Mapping[object, Filter] = {
    2: "bilinear",
    3: "bicubic",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}


@dataclass(frozen=True)
class Area:
    """Sides that are multiples of a block of patches, an area between `least` and `most` pixels (Qwen)."""

    least: int
    most: int


@dataclass(frozen=True)
class Tiles:
    """One piece of `least` to `most` pixels; where a picture is larger than `split` pixels, `fewest` to `largest` tiles
    of `tile` x `tile` instead, and a small picture of the whole if `thumbnail` (LFM2-VL)."""

    least: int
    most: int
    split: float
    tile: int
    fewest: int
    largest: int
    thumbnail: bool


@dataclass(frozen=True)
class Patches:
    """As many patches as fit into `most` (SigLIP2 NaFlex)."""

    most: int


@dataclass(frozen=True)
class Fixed:
    """A size that is always the same: `size` is (width, height), or the length of the shortest side. `crop`: (width,
    height) that is cut from its middle; None: all of it (DINOv2, CLIP, SigLIP, ViT)."""

    size: tuple[int, int] | int
    crop: tuple[int, int] | None


Sizing = Area | Tiles | Patches | Fixed


@dataclass(frozen=True)
class Rules:
    """How pictures become patches.

    patch: pixels on a side of a patch. merge: patches on a side of the block that the projector makes one row of; with
    `blocks` the patches of a block stand together. frames: pictures in a row of patches (2: a still picture is
    repeated). channels_last: a row holds (y, x, channel), else (channel, frame, y, x). A value is
    (byte * scale - mean) / std.
    """

    sizing: Sizing
    patch: int
    merge: int
    filter: Filter
    mean: _Colours
    std: _Colours
    scale: float = 1 / 255
    frames: int = 1
    blocks: bool = False
    channels_last: bool = False

    @property
    def row(self) -> int:
        """Numbers in a row of patches."""
        return 3 * self.frames * self.patch * self.patch

    def within(self, pixels: int | None) -> Rules:
        """These rules, with pictures of at most about so many pixels; None: as the model says. Sizes that the model
        fixes stay."""
        if pixels is None:
            return self
        sizing = self.sizing
        block = (self.patch * self.merge) ** 2
        if isinstance(sizing, Area):
            most = max(block, min(sizing.most, pixels))
            sizing = Area(min(sizing.least, most), most)
        elif isinstance(sizing, Tiles):
            most = max(block, min(sizing.most, pixels))
            largest = min(sizing.largest, pixels // sizing.tile**2)
            if largest < max(sizing.fewest, 2):
                largest = 1
            split = sizing.split if largest > 1 else math.inf
            sizing = replace(
                sizing, least=min(sizing.least, most), most=most, split=split, largest=largest
            )
        elif isinstance(sizing, Patches):
            sizing = Patches(max(1, min(sizing.most, pixels // self.patch**2)))
        return replace(self, sizing=sizing)


_Reader = Callable[[Config, Config], Rules]


async def read_rules(repository: Repository, vision: Config) -> Rules:
    """The rules of a repository. `vision`: the model's vision_config (or config.json), which has the size of a patch
    where the image processor does not say it. Raises ModelError, FormatError, HubError."""
    for name in FILES:
        given = await repository.json_object(name)
        inner = given.get("image_processor")
        if isinstance(inner, Mapping):
            return rules_of(Part(inner, "image_processor.", name), vision)
        if "image_processor_type" in given or "feature_extractor_type" in given:
            return rules_of(Part(given, file=name), vision)
    raise ModelError(
        f"{repository.address} has no preprocessor_config.json that says how its pictures are prepared: fetch the "
        "repository with all of its small files, or give patches with their grid."
    )


async def read_video_rules(repository: Repository, rules: Rules) -> Rules:
    """The rules for frames of a video: those for pictures, with the sizes of video_preprocessor_config.json (or of the
    video processor in processor_config.json) where there is one. Raises ModelError, FormatError, HubError."""
    given = await repository.json_object(VIDEO_FILE)
    config = Part(given, file=VIDEO_FILE)
    if not given:
        inner = (await repository.json_object(FILES[1])).get("video_processor")
        if not isinstance(inner, Mapping):
            return rules
        config = Part(inner, "video_processor.", FILES[1])
    mean, std, scale = _normalisation(config, (rules.mean, rules.std))
    sizing = _area(config, (128 * 32 * 32, 32 * 32 * 768))
    return replace(rules, sizing=sizing, mean=mean, std=std, scale=scale)


def rules_of(config: Config, vision: Config) -> Rules:
    """The rules that an image processor's config describes. Raises ModelError naming file and key."""
    name = config.get("image_processor_type", config.get("feature_extractor_type"))
    plain = name if isinstance(name, str) else ""
    for end in ("Fast", "Pil"):
        plain = plain.removesuffix(end)
    reader = _READERS.get(plain)
    if reader is None:
        raise ModelError(
            f"{named(config, 'image_processor_type')} is {short(name)}, which is not supported. Supported are "
            f"{', '.join(_READERS)}; patches with their grid can be given for any."
        )
    for switch in ("do_resize", "do_rescale", "do_normalize"):
        if not require_bool(config, switch, True):
            raise ModelError(f"{named(config, switch)} is false, which is not supported.")
    return reader(config, vision)


def _qwen(config: Config, vision: Config) -> Rules:
    patch = require_int(config, "patch_size", 1, 256, 14)
    return Rules(
        _area(config, (56 * 56, 28 * 28 * 1280)),
        patch,
        require_int(config, "merge_size", 1, 16, 2),
        _filter(config, 3),
        *_normalisation(config, (_CLIP_MEAN, _CLIP_STD)),
        frames=require_int(config, "temporal_patch_size", 1, 2, 2),
        blocks=True,
    )


def _area(config: Config, defaults: tuple[int, int]) -> Area:
    """Limits in pixels, under either of the names that Qwen's configs give them."""
    size = {} if config.get("size") is None else part(config, "size")

    def limit(old: str, new: str, default: int) -> int:
        if config.get(old) is not None:
            return require_int(config, old, 1, MAX_AREA)
        return require_int(size, new, 1, MAX_AREA, default)

    least = limit("min_pixels", "shortest_edge", defaults[0])
    most = limit("max_pixels", "longest_edge", defaults[1])
    if least > most:
        raise ModelError(f"{named(config, 'size')}: at least {least} pixels, but at most {most}.")
    return Area(least, most)


def _lfm2(config: Config, vision: Config) -> Rules:
    patch = require_int(config, "encoder_patch_size", 1, 256, 16)
    merge = require_int(config, "downsample_factor", 1, 16, 2)
    block = (patch * merge) ** 2
    least = block * require_int(config, "min_image_tokens", 1, 1 << 16, 64)
    most = block * require_int(config, "max_image_tokens", 1, 1 << 16, 256)
    fewest = require_int(config, "min_tiles", 1, 64, 2)
    largest = require_int(config, "max_tiles", 1, 64, 10)
    tile = require_int(config, "tile_size", 1, MAX_SIDE, 512)
    if least > most or fewest > largest or tile % (patch * merge):
        raise ModelError(
            f"{named(config, 'tile_size')}: {least} to {most} pixels, {fewest} to {largest} tiles of {tile} pixels in "
            f"blocks of {patch * merge} do not go together."
        )
    tolerance = require_float(config, "max_pixels_tolerance", 0, 1e6, 2.0)
    split = most * tolerance
    if fewest == largest == 1 or not require_bool(config, "do_image_splitting", True):
        split = math.inf
    thumbnail = require_bool(config, "use_thumbnail", True)
    return Rules(
        Tiles(least, most, split, tile, fewest, largest, thumbnail),
        patch,
        merge,
        _filter(config, 2),
        *_normalisation(config, (_HALF, _HALF)),
        channels_last=True,
    )


def _siglip2(config: Config, vision: Config) -> Rules:
    most = require_int(config, "max_num_patches", 1, 1 << 16, 256)
    patch = require_int(config, "patch_size", 1, 256, 16)
    normal = _normalisation(config, (_HALF, _HALF))
    return Rules(Patches(most), patch, 1, _filter(config, 2), *normal, channels_last=True)


def _fixed(
    square: bool, crop: bool, filter_number: int, defaults: tuple[_Colours, _Colours]
) -> _Reader:
    """The reader for processors that resize to one size. `square`: what a single number means. `crop`: whether a part
    is cut from the middle."""

    def read(config: Config, vision: Config) -> Rules:
        patch = require_int(vision, "patch_size", 1, 256)
        size = _edges(config, "size", square)
        cut: tuple[int, int] | None = None
        if require_bool(config, "do_center_crop", crop):
            edges = _edges(config, "crop_size", True)
            assert isinstance(edges, tuple)
            cut = edges
            w, h = (size, size) if isinstance(size, int) else size
            if cut[0] > w or cut[1] > h:
                raise ModelError(
                    f"{named(config, 'crop_size')} is {cut[0]} x {cut[1]}, larger than what the picture is resized to."
                )
        elif isinstance(size, int):
            raise ModelError(
                f"{named(config, 'do_center_crop')} is false, but only the shortest side has a size: give patches "
                "with their grid."
            )
        seen = cut or size
        if any(side < patch for side in (seen if isinstance(seen, tuple) else (seen,))):
            raise ModelError(
                f"{named(config, 'size')}: pictures are smaller than a patch of {patch} pixels."
            )
        return Rules(
            Fixed(size, cut),
            patch,
            1,
            _filter(config, filter_number),
            *_normalisation(config, defaults),
        )

    return read


def _edges(config: Config, key: str, square: bool) -> tuple[int, int] | int:
    """A size: one number, {"shortest_edge"}, or {"height", "width"}."""
    value = config.get(key, 224)
    if isinstance(value, dict):
        size = part(config, key)
        if "shortest_edge" in size:
            return require_int(size, "shortest_edge", 1, MAX_SIDE)
        return require_int(size, "width", 1, MAX_SIDE), require_int(size, "height", 1, MAX_SIDE)
    edge = require_int(config, key, 1, MAX_SIDE, 224)
    return (edge, edge) if square else edge


def _filter(config: Config, default: int) -> Filter:
    value = config.get("resample", default)
    found = _FILTERS.get(value) if isinstance(value, (int, str)) else None
    if found is None:
        raise ModelError(
            f"{named(config, 'resample')} is {short(value)}; supported are 2 (bilinear) and 3 (bicubic)."
        )
    return found


def _normalisation(
    config: Config, defaults: tuple[_Colours, _Colours]
) -> tuple[_Colours, _Colours, float]:
    """mean, std and scale."""
    mean = _colours(config, "image_mean", defaults[0], low=-1e3)
    std = _colours(config, "image_std", defaults[1], low=1e-6)
    return mean, std, require_float(config, "rescale_factor", 1e-9, 1e3, 1 / 255)


def _colours(config: Config, key: str, default: _Colours, low: float) -> _Colours:
    """A number for each colour; one number holds for all of them."""
    value = config.get(key)
    if value is None:
        return default
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise ModelError(f"{named(config, key)} is {short(value)}, expected three numbers.")
    one = (require_float(Part({key: v}, *_at(config)), key, low, 1e3) for v in values)
    r, g, b = one
    return r, g, b


def _at(config: Config) -> tuple[str, str]:
    return (config.path, config.file) if isinstance(config, Part) else ("", FILES[0])


_READERS: Mapping[str, _Reader] = {
    "Qwen2VLImageProcessor": _qwen,
    "Qwen3VLImageProcessor": _qwen,
    "Lfm2VlImageProcessor": _lfm2,
    "Siglip2ImageProcessor": _siglip2,
    "BitImageProcessor": _fixed(False, True, 3, (_CLIP_MEAN, _CLIP_STD)),
    "CLIPImageProcessor": _fixed(False, True, 3, (_CLIP_MEAN, _CLIP_STD)),
    "SiglipImageProcessor": _fixed(True, False, 3, (_HALF, _HALF)),
    "ViTImageProcessor": _fixed(True, False, 2, (_HALF, _HALF)),
}
