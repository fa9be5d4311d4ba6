"""The pictures and videos of a request: their ids in the prompt, and where the rows behind these come from."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.errors import InputError, ModelError
from py_engine.generate.given import Given, Positions
from py_engine.inputs.media import Medium, media_of
from py_engine.inputs.messages import Message
from py_engine.pictures.prompt import PicturePrompt, grid_positions, runs
from py_engine.tasks.loaded import Loaded
from py_engine.tasks.viewed import Viewed, view


class Seen:
    """The pictures of one request, planned and named by their content. They are decoded, and the tower runs, only when
    the state of the model lacks their rows; after the loss of a device, again."""

    def __init__(self, loaded: Loaded, media: Sequence[Medium]) -> None:
        """Raises InputError for what is no picture, and for a model that sees none; ModelError where its files do not
        say how they are prepared."""
        self._tokenizer = loaded.tokenizer
        self._prompt = _prompt_of(loaded, media[0]) if media else None
        self._items = [_viewed(loaded, medium, self._prompt) for medium in media]
        self._media = media

    def encode(self, pieces: Sequence[tuple[str, bool]], said: Sequence[Message]) -> list[int]:
        """The ids of a rendered prompt, with those of the rows of all pictures in the messages `said`."""
        if self._prompt is None:
            return self._tokenizer.encode_pieces(pieces)
        numbers = {id(medium): n for n, medium in enumerate(self._media)}
        items = [self._items[numbers[id(medium)]] for medium in media_of(said, self._media)]
        expanded = self._prompt.expand(pieces, [item.plan for item in items])
        known = self._tokenizer.control
        if lacking := {text for text, control in expanded if control} - known.keys():
            raise ModelError(
                f"tokenizer.json has no token {min(lacking)}, which a picture of this size needs in the prompt"
            )
        rows = [run for item in items for run, _ in runs(item.plan, item.ids)]
        return self._prompt.fill(self._tokenizer.encode_pieces(expanded), rows, known)

    def fill(self, ids: Sequence[int]) -> list[int]:
        """`ids` that hold a picture's token once for each row, with the ids of the rows of all pictures. Raises
        InputError when they are not as many."""
        if self._prompt is None:
            return [*ids]
        rows = [item.ids for item in self._items]
        return self._prompt.fill_rows(ids, rows, self._tokenizer.control)

    def given(self, loaded: Loaded, ids: Sequence[int]) -> Given | None:
        """The rows of a prompt's negative ids, made by a model that is loaded; None without pictures."""
        if not self._items:
            return None
        found = {run[0]: grid for item in self._items for run, grid in runs(item.plan, item.ids)}
        several = loaded.decoder.state.positions is not None  # rotary positions have several axes
        given = Given(Positions(grid_positions(ids, found)) if several else None)
        present = {*ids}
        for item in self._items:
            if item.ids[0] in present:
                for part, source in item.sources(loaded):
                    given.add(part, source)
        return given

    def forget(self, loaded: Loaded) -> None:
        """Free what a prefill decoded and computed."""
        for item in self._items:
            item.close()
        if self._items and loaded.vision is not None:
            loaded.vision.forget()


def _prompt_of(loaded: Loaded, first: Medium) -> PicturePrompt:
    prompt = PicturePrompt.of(loaded.tokenizer)
    if loaded.vision is None or loaded.generating is None:
        raise loaded.cannot(
            f"see pictures ({first.where}): it has no vision tower, or was loaded with vision='off'"
        )
    if prompt is None:
        raise ModelError(
            f"{loaded.name}: tokenizer.json has no token for a picture (<|image_pad|>, <image>): its files are"
            " incomplete. Fetch the repository again."
        )
    return prompt


def _viewed(loaded: Loaded, medium: Medium, prompt: PicturePrompt | None) -> Viewed:
    if medium.kind == "video" and (prompt is None or prompt.video is None):
        raise InputError(
            f"{medium.where}: {loaded.family} takes pictures, and no videos: give single frames"
        )
    return view(loaded, medium)
