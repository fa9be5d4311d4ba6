"""What a model sees pictures with: a tower that is in memory, or one that is loaded with the first picture."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from py_engine.blocks.vision import Tower
from py_engine.encode.tower import TowerRunner, rows_of
from py_engine.graph.trace import Tensor
from py_engine.weights.store import WeightStore


@dataclass(eq=False)
class Sight:
    """A tower in memory. `store`: its weights, filled; None: they belong to the model, which is a tower itself."""

    runner: TowerRunner
    store: WeightStore | None = None

    def release(self) -> None:
        """Free every buffer that is its own."""
        if self.store is not None:
            self.runner.release()
            self.store.release()


class Vision:
    """The tower of one loaded model. `tower`: its sizes and wiring, known before it is loaded. `here`: whether it is in
    memory."""

    def __init__(
        self,
        tower: Tower,
        load: Callable[[], Awaitable[Sight]] | None = None,
        sight: Sight | None = None,
    ) -> None:
        """Either `sight`, or `load`, which is awaited when the first picture comes."""
        self.tower = tower
        self._load, self._sight = load, sight

    @property
    def here(self) -> bool:
        """Whether the tower is in memory."""
        return self._sight is not None

    def count(self, grid: Sequence[int]) -> int:
        """Rows that a picture takes in a prompt; grid: frames, rows and columns of patches. Raises InputError for a
        grid that the tower cannot take."""
        return rows_of(self.tower, grid)

    async def runner(self) -> TowerRunner:
        """The tower at work, loaded now where it is not here. Raises the errors of Engine.load; then a later call tries
        again."""
        if self._sight is None:
            assert self._load is not None
            self._sight = await self._load()
        return self._sight.runner

    async def rows(self, patches: Tensor | bytes | memoryview, grid: Sequence[int]) -> Tensor:
        """The rows of a picture, as TowerRunner.rows (encode/tower.py) gives them, after loading the tower where it is
        not here."""
        self.count(grid)
        return await (await self.runner()).rows(patches, grid)

    def forget(self) -> None:
        """Free the rows of all pictures so far."""
        if self._sight is not None:
            self._sight.runner.forget()

    def memory(self) -> dict[str, int]:
        """GPU bytes by kind; nothing while the tower is not here, or where it is the model itself."""
        sight = self._sight
        if sight is None or sight.store is None:
            return {}
        return {
            "vision_weights_bytes": sight.store.nbytes,
            "vision_bytes": sight.runner.nbytes,
        }

    def release(self) -> None:
        """Free every buffer that is its own."""
        if self._sight is not None:
            self._sight.release()
