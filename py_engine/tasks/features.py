"""Task `features`: the rows that a vision tower makes of a picture, after its projector."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Annotated, Any, Never

from py_engine.arguments import shown
from py_engine.encode.tower import checked
from py_engine.encode.vision import Vision
from py_engine.errors import InputError
from py_engine.graph.trace import Tensor
from py_engine.inputs.media import listed
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, Task
from py_engine.tasks.viewed import view
from py_engine.work import Work


@dataclass(frozen=True)
class Features:
    """Rows of a picture: `features` float32 [rows * dimensions], row by row; numpy.asarray reads it without copying."""

    features: memoryview[float]
    rows: int
    dimensions: int


@dataclass(frozen=True)
class FeaturesRequest(Request[Work[Never, Features]]):
    """A picture: as patches with their grid, as a file or an array, or as raw pixels."""

    patches: Annotated[
        Any, "float32 patches [t h w, k], row by row: a buffer or a list of numbers"
    ] = None
    _: KW_ONLY
    grid: Annotated[
        Sequence[int] | None, "of patches: frames (of a still: 1), rows and columns"
    ] = None
    image: Annotated[Any, "a picture: a file's bytes, a path, an array [height, width, 3]"] = None
    pixels: Annotated[Any, "raw pixels of 1, 3 or 4 bytes each, with width and height"] = None
    width: Annotated[int | None, "pixels across"] = None
    height: Annotated[int | None, "pixels down"] = None


class FeaturesTask(Task[FeaturesRequest]):
    """The rows that a vision tower makes of a picture; of one that the model's files cut into pieces (tiles, then the
    whole), those of all pieces, one after another."""

    name, request, command = "features", FeaturesRequest, False

    def lacks(self, loaded: Loaded) -> str | None:
        """A model without a tower lacks it."""
        return None if loaded.vision is not None else "a vision tower"

    def prepare(self, loaded: Loaded, request: FeaturesRequest) -> Job[Never, Features]:
        """Check the picture, or the grid and the number of patches."""
        assert loaded.vision is not None
        forms = ("patches", "image", "pixels")
        given = [form for form in forms if getattr(request, form) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise InputError(f"features takes patches, image or pixels; {found} came")
        if request.patches is not None:
            data, grid = _of_patches(loaded.vision, request)
            return _Seeing(lambda model: [partial(_vision(model).rows, data, grid)], _nothing)
        sizes = {"width": request.width, "height": request.height, "grid": request.grid}
        part = {given[0]: getattr(request, given[0]), **sizes}
        (medium,) = listed([{key: value for key, value in part.items() if value is not None}])
        viewed = view(loaded, medium)
        return _Seeing(lambda model: [source for _, source in viewed.sources(model)], viewed.close)


# What gives the rows of each piece of a picture, by a model that is loaded.
Pieces = Callable[[Loaded], Sequence[Callable[[], Awaitable[Tensor]]]]


class _Seeing(Job[Never, Features]):
    def __init__(self, pieces: Pieces, close: Callable[[], None]) -> None:
        """`close`: called after the run."""
        self._pieces, self._close = pieces, close

    async def run(self, loaded: Loaded, work: Work[Never, Features]) -> Features:
        """Run the tower for each piece, and read the rows back."""
        vision = _vision(loaded)
        rows, dimensions, found = 0, 0, b""
        try:
            for make in self._pieces(loaded):
                work.abort.check()
                made = await make()
                gpu = (await vision.runner()).gpu
                await gpu.idle()  # a native read blocks the event loop
                found += await gpu.read(made.buffer, 0, made.nbytes)
                rows, dimensions = rows + made.shape[0], made.shape[1]
        finally:
            self._close()
            vision.forget()
        return Features(memoryview(found).cast("f"), rows, dimensions)


def _vision(loaded: Loaded) -> Vision:
    assert loaded.vision is not None
    return loaded.vision


def _nothing() -> None:
    """There is nothing to close."""


def _of_patches(vision: Vision, request: FeaturesRequest) -> tuple[memoryview, Sequence[int]]:
    """The patches and their grid, checked."""
    if request.grid is None:
        raise InputError("patches need their grid: frames, rows and columns")
    t, h, w = checked(vision.tower, request.grid)
    data, wanted = _floats(request.patches), t * h * w * vision.tower.patch.cols
    if len(data) != 4 * wanted:
        raise InputError(
            f"patches: {len(data) // 4:,} float32 numbers; a grid of {t} x {h} x {w} patches of "
            f"{vision.tower.patch.cols} has {wanted:,}"
        )
    return data, (t, h, w)


def _floats(given: Any) -> memoryview:
    """The bytes of float32 numbers. Raises InputError."""
    try:
        if isinstance(given, list):
            return memoryview(array("f", given)).cast("B")
        view = memoryview(given)
        if view.format in ("f", "<f"):
            return (view if view.c_contiguous else memoryview(view.tobytes())).cast("B")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"patches={shown(given)}: give float32 numbers ({error})") from error
    raise InputError(f"patches: a buffer of {view.format!r}, give float32 numbers")
