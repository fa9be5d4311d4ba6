"""The vision tower beside a text model: a later load of it, when the first picture comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from py_engine.abort import Abort
from py_engine.encode.tower import MOST_ROWS
from py_engine.encode.vision import Sight, Vision
from py_engine.errors import FormatError, ModelError
from py_engine.graph.kernels import Kernels, kernels_of
from py_engine.graph.submit import SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.host.gpu_counting import CountingGpu
from py_engine.host.io import Io
from py_engine.host.profile import profile_of
from py_engine.models import build_tower
from py_engine.pictures.reader import PictureReader
from py_engine.pictures.rules import read_rules, read_video_rules
from py_engine.serve.filling import fill
from py_engine.serve.memory import Setting
from py_engine.serve.options import Progress, tower_form
from py_engine.serve.runtime import build_sight
from py_engine.serve.source import Source, open_source
from py_engine.sources.config import part


@dataclass(frozen=True)
class LaterTower:
    """How a tower is loaded after its model. `address`: of exactly the same weights. `check`: whether its kernels are
    checked."""

    address: str
    gpu: Gpu
    io: Io
    setting: Setting
    strategy: SubmitStrategy
    check: bool
    tell: Callable[[Progress], object]

    async def load(self) -> Sight:
        """Load it. After an error nothing of it stays allocated. Raises the errors of Engine.load."""

        def note(message: str) -> None:
            self.tell(Progress("note", message=message))

        kernels = kernels_of(self.gpu)
        try:
            async with open_source(self.address, self.io, note) as source:
                return await self._load(source, kernels)
        finally:
            self.io.close()  # the connections that it kept open

    async def _load(self, source: Source, kernels: Kernels) -> Sight:
        gpu, strategy, tell = self.gpu, self.strategy, self.tell
        form = tower_form(self.setting.form)
        store, sight = source.make_store(gpu, form, tower=True), None
        try:
            sight = build_sight(
                source.config, store, gpu, kernels, exact=self.setting.exact, strategy=strategy
            )
            if sight is None:
                raise ModelError(f"{self.address} has no vision tower any more: load it again.")
            await fill([store], source.repository, gpu, kernels, strategy, tell, Abort())
            await kernels.compiled(partial(_ignore))
            if self.check:
                await sight.runner.self_check().run()
            await sight.runner.plan()
            await gpu.idle()
            await source.commit()
            tell(Progress("ready", message="Ready"))
            return sight
        except BaseException:
            await kernels.forget_failed()
            if sight is not None:
                sight.runner.release()
            store.release()
            raise


def later_vision(source: Source, later: LaterTower) -> Vision | None:
    """The vision of a model whose tower stays where it is until the first picture; None: it has none."""
    paper = CountingGpu.like(later.gpu)
    form = tower_form(later.setting.form)
    tower = build_tower(source.config, source.make_store(paper, form, tower=True))
    return Vision(tower, later.load) if tower is not None else None


async def open_reader(
    source: Source, gpu: Gpu, io: Io, strategy: SubmitStrategy
) -> tuple[PictureReader | None, str]:
    """What prepares pictures for a model, as its files say; else None and why. Text needs none, so a load goes on."""
    repository, config = source.repository, source.config
    if repository is None:
        return (
            None,
            f"{source.pinned} has no files that say how pictures are prepared: give patches",
        )
    try:
        beside = config.get("vision_config") is not None  # else the model is a tower itself
        rules = await read_rules(repository, part(config, "vision_config") if beside else config)
        video = await read_video_rules(repository, rules)
    except (ModelError, FormatError) as error:
        return None, str(error)
    pixels = profile_of(io.handheld).picture_pixels
    reader = PictureReader(
        gpu, kernels_of(gpu), rules, strategy,
        max_pixels=pixels, video=video, most_patches=MOST_ROWS,
    )  # fmt: skip
    return reader, ""


def _ignore(done: int, of: int) -> None:
    """Compiling a tower's kernels is told by nobody: most are there already."""
