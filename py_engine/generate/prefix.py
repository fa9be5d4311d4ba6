"""Knows which token ids the state has seen, and from where a new prompt can continue. Knows no plans."""

from __future__ import annotations

from collections.abc import Sequence

from py_engine.blocks.snapshots import Snapshots


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


class Prefix:
    """What the state has seen. `ids`: the tokens whose rows are in the KV cache, from position 0.

    A KV cache can be continued after any of them. A recurrent state has seen exactly the tokens that ran, and cannot go
    back: it continues from there or from a snapshot, or begins anew. A snapshot also needs the KV rows of its tokens,
    so it is good as long as `ids` begins with them. A new one replaces the least recently used one.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        """`snapshots`: with a count of 0 the state is a KV cache and nothing else."""
        self.ids: list[int] = []
        self._snapshots = snapshots
        self._seen: int | None = 0  # tokens that the recurrent state has seen; None: not known
        self._marks: dict[int, int] = {}  # tokens seen -> slot, least recently used first

    @property
    def recurrent(self) -> bool:
        """Whether there is a state that cannot go back."""
        return self._snapshots.count > 0

    async def resume(self, ids: Sequence[int]) -> int:
        """Bring the state to the longest beginning of `ids` that is available. The last token is never part of it,
        since it must run for its logits. Returns the number of tokens in it. Later rows are given up."""
        start = shared(self.ids, ids[:-1])
        if self.recurrent:
            lives = self.lives and len(self.ids) <= start
            start = max([n for n in self._marks if n <= start], default=0)
            if lives and len(self.ids) > start:
                start = len(self.ids)
                await self.mark()  # the end of a turn: a changed next question goes back to it
            elif start:
                self.leave()
                await self._snapshots.restore(self._use(start))
        self._cut(self.ids[:start], start)
        return start

    def leave(self) -> None:
        """Say that passes which change the state are submitted now. Until `reached`, its position is not known."""
        self._seen = None

    def reached(self, ids: Sequence[int]) -> None:
        """Say that all passes are done: the state has seen `ids`, which begin with the earlier ones."""
        self.ids, self._seen = list(ids), len(ids)

    def keep(self, ids: Sequence[int], seen: int) -> None:
        """After a decode: keep `ids`, of the `seen` tokens that the state has seen."""
        self._cut(list(ids), seen)

    async def mark(self) -> None:
        """Take a snapshot of the state, which has just seen `ids`."""
        n = len(self.ids)
        if not self.recurrent or n == 0 or not self.lives:
            return
        if n in self._marks:
            self._use(n)
            return
        if len(self._marks) < self._snapshots.count:
            slot = next(i for i in range(self._snapshots.count) if i not in self._marks.values())
        else:
            slot = self._marks.pop(next(iter(self._marks)))
        await self._snapshots.save(slot)
        self._marks[n] = slot

    @property
    def lives(self) -> bool:
        """Whether the recurrent state is the one after `ids`. It may have run further, or be unknown."""
        return self._seen == len(self.ids)

    @property
    def marks(self) -> dict[int, int]:
        """For each snapshot the number of tokens it has seen, and its slot; the least recently used first."""
        return dict(self._marks)

    def adopt(self, ids: list[int], lives: bool, marks: dict[int, int]) -> None:
        """Say that cache, state and snapshots were filled from outside."""
        self.ids, self._seen, self._marks = ids, len(ids) if lives else None, marks

    def forget(self) -> None:
        """Begin anew with the next prompt."""
        self._cut([], 0)

    def _use(self, n: int) -> int:
        """The slot of a snapshot, which becomes the most recently used one."""
        self._marks[n] = slot = self._marks.pop(n)
        return slot

    def _cut(self, ids: list[int], seen: int | None) -> None:
        self.ids, self._seen = ids, seen
        self._marks = {n: slot for n, slot in self._marks.items() if n <= len(ids)}
