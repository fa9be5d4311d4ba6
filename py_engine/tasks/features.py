"""Task `features`: the rows that a vision tower makes of a picture, after its projector."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Never

from py_engine.arguments import shown
from py_engine.encode.tower import checked
from py_engine.errors import InputError
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.task import Job, Request, Task
from py_engine.work import Work


@dataclass(frozen=True)
class Features:
    """Rows of a picture: `features` float32 [rows * dimensions], row by row; numpy.asarray reads it without copying."""

    features: memoryview[float]
    rows: int
    dimensions: int


@dataclass(frozen=True)
class FeaturesRequest(Request[Work[Never, Features]]):
    """A picture as patches."""

    patches: Annotated[Any, "float32 patches [t h w, k], row by row: a buffer or a list of numbers"]
    _: KW_ONLY
    grid: Annotated[Sequence[int], "frames (of a still: 1), rows and columns of patches"]


class FeaturesTask(Task[FeaturesRequest]):
    """The rows that a vision tower makes of a picture's patches."""

    name, request, command = "features", FeaturesRequest, False

    def lacks(self, loaded: Loaded) -> str | None:
        """A model without a tower lacks it."""
        return None if loaded.vision is not None else "a vision tower"

    def prepare(self, loaded: Loaded, request: FeaturesRequest) -> Job[Never, Features]:
        """Check the grid and the number of patches."""
        assert loaded.vision is not None
        tower = loaded.vision.tower
        t, h, w = checked(tower, request.grid)
        data, wanted = _floats(request.patches), t * h * w * tower.patch.cols
        if len(data) != 4 * wanted:
            raise InputError(
                f"patches: {len(data) // 4:,} float32 numbers; a grid of {t} x {h} x {w} patches of "
                f"{tower.patch.cols} has {wanted:,}"
            )
        return _Seeing(data, (t, h, w))


class _Seeing(Job[Never, Features]):
    def __init__(self, patches: memoryview, grid: Sequence[int]) -> None:
        self._patches, self._grid = patches, grid

    async def run(self, loaded: Loaded, work: Work[Never, Features]) -> Features:
        """Run the tower, and read its rows back."""
        vision = loaded.vision
        assert vision is not None
        work.abort.check()
        try:
            found = await vision.rows(self._patches, self._grid)
            gpu = (await vision.runner()).gpu
            await gpu.idle()  # a native read blocks the event loop
            data = await gpu.read(found.buffer, 0, found.nbytes)
        finally:
            vision.forget()
        rows, dimensions = found.shape
        return Features(memoryview(data).cast("f"), rows, dimensions)


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
