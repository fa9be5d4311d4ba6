"""The size of a decoder's KV cache, which follows the length of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.blocks.state import State
from py_engine.errors import InputError, OutOfMemoryError
from py_engine.graph.programs import Programs

_SMALLEST = 512  # tokens that the smallest cache has room for
_ROOM = 256  # a cache has room for at least so many tokens more than the text has when it is made,
_SHARE = 8  # and for at least this share of the text: an eighth
_UNIT = 32  # capacities are multiples of this
_SPARE = 1.15  # a cache is too large when it has room for so many times the text,
_SMALL = 2304  # unless it is no larger than this
# A large cache grows a part at a time while the text nears its end: a driver takes 0.1 ms for each MB, and more for
# many. After each part some tokens are decoded.
_PART_BYTES = 48 << 20
_BETWEEN = 8


@dataclass(frozen=True)
class Sizes:
    """How many tokens the KV cache has room for, by the length of the text.

    Without `classes`, an eighth more than the text has when the cache is made (and at least 256 tokens more), so that
    little memory is unused. A growth moves as many bytes as two steps of decoding read, and happens once in hundreds
    of steps. `classes`: fixed sizes instead, in tokens.
    """

    context: int  # the most tokens of a text
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, context: int, classes: Sequence[int] | None) -> Sizes:
        """Sizes up to `context`. Raises InputError for a class that is no number of tokens."""
        if classes is None:
            return cls(context)
        numbers = (n for n in classes if isinstance(n, bool) or not isinstance(n, int) or n < 1)
        bad = next(numbers, None)
        if bad is not None:
            raise InputError(f"context_classes: {bad!r} is not a number of tokens")
        return cls(context, (*sorted(n for n in set(classes) if n < context), context))

    @property
    def first(self) -> int:
        """The size of a new cache."""
        return self.holding(1)

    @property
    def last_but_one(self) -> int:
        """The largest size from which a cache grows once more."""
        if self.classes is not None:
            return (0, *self.classes)[-2] or self.context
        return max(self.first, (self.context - 1) // _UNIT * _UNIT)

    def holding(self, tokens: int) -> int:
        """The size of a cache that is made for a text of so many tokens."""
        if self.classes is not None:
            return next((n for n in self.classes if n >= tokens), self.context)
        if tokens <= _SMALLEST:
            return min(_SMALLEST, self.context)
        room = tokens + max(_ROOM, tokens // _SHARE)
        return min(-(-room // _UNIT) * _UNIT, self.context)

    def wanted(self, now: int, tokens: int, rows: int, room: int) -> int:
        """The size that a cache of `now` tokens should get for a text of `tokens` and `room` more. It holds the first
        `rows` of them. A cache that is large enough keeps its size, unless it is too large."""
        if self.classes is not None:
            best = self.holding(tokens + room)
            return now if rows and best < now else best
        best = max(self.holding(tokens), min(tokens + room, self.context))
        enough = min(tokens + room, self.context) <= now
        return now if enough and now <= max(best, _SMALL, int(_SPARE * tokens)) else best


class CacheGrowth:
    """Changes the size of the KV cache of `state`, and tells `programs` which buffers took the place of others."""

    def __init__(self, state: State, programs: Programs, sizes: Sizes) -> None:
        self._state = state
        self._programs = programs
        self._refused = 0  # the capacity of a cache of which the device could not move a part
        self.sizes = sizes

    async def ahead(self, seen: int, left: int) -> None:
        """Move a part of a large cache to its next size, if the text of `seen` tokens nears the end of the present one
        and may have `left` more. The last part is left to `fit`, and so are all where the device has no room."""
        parts = self._parts(seen + left)
        if parts and seen >= self._begin(parts):
            cache = self._state.cache
            try:
                await cache.move(parts[0], self._next, seen, self._programs.replace)
            except OutOfMemoryError:
                self._refused = cache.capacity

    def room(self, seen: int, left: int) -> int:
        """How many of `left` tokens can be decoded after the first `seen` before `ahead` or `fit` has work to do."""
        begin = self._begin(self._parts(seen + left))
        wait = begin - seen if seen < begin else _BETWEEN
        return min(left, wait, self._state.cache.capacity - seen)

    @property
    def _next(self) -> int:
        """The size that a cache gets when a text has filled the present one."""
        return self.sizes.holding(min(self._state.cache.capacity + 1, self.sizes.context))

    def _parts(self, tokens: int) -> list[list[int]]:
        """The parts of the cache that `ahead` moves for a text that may have so many tokens."""
        cache = self._state.cache
        if tokens <= cache.capacity or cache.capacity == self._refused:
            return []
        return cache.parts(self._next, _PART_BYTES)[:-1]

    def _begin(self, parts: Sequence[object]) -> int:
        """How long the text is when the first of these parts moves."""
        return self._state.cache.capacity - _BETWEEN * len(parts)

    async def fit(self, tokens: int, rows: int, room: int = 0) -> None:
        """Take a cache for `tokens` and, if memory allows, `room` more. The first `rows` stay.

        Raises OutOfMemoryError; then the cache is as it was.
        """
        now = self._state.cache.capacity
        wanted = self.sizes.wanted(now, tokens, rows, room)
        if wanted == now:
            return
        try:
            await self.resize(wanted, rows)
        except OutOfMemoryError as error:
            if now >= tokens:
                return
            raise OutOfMemoryError(
                f"no room on the GPU for a KV cache of {wanted} tokens, which a text of {tokens} needs; the one of "
                f"{now} stays in use: ask for less, or begin a new conversation ({error})"
            ) from error

    async def resize(self, capacity: int, rows: int) -> None:
        """Give the cache room for `capacity` tokens; the first `rows` stay. Raises OutOfMemoryError, HostError; then it
        is as it was."""
        if capacity != self._state.cache.capacity:
            await self._state.cache.resize(
                capacity, rows, self.sizes.context, self._programs.replace
            )
