"""Finds out, before a regular expression of a tokenizer.json is used, whether it may take very long; then it is
refused.

In both hosts the tokenizers library matches by Oniguruma, which tries one way after another. When a text can be matched
in many ways and the match then fails, it tries all of them:

- two ways around a loop, as in `(a+)+b` or `(a|a)*b`: their number doubles with every round;
- three loops one after another that match the same text, as in `a*a*a*b`: it grows with the cube of the length.

Both are found on the automaton of the pattern's positions (Weber and Seidl 1991 name the two conditions, of
exponential and of polynomial ambiguity). A loop after which nothing can fail is harmless, since the first way is taken.
Chains of one or two loops (`\\s+(?!\\S)` in most published patterns) are given as `suspects`, to be timed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from py_engine.errors import ModelError

from .regex_syntax import Alt, Cat, Check, Loop, Node, Parser, Set, Unsupported

MAX_POSITIONS = 2000  # characters of the pattern; what a count repeats is counted each time
MAX_STEPS = 400_000  # of the analysis; a pattern that takes more is refused
MOST_SUSPECTS = 12
_MANY = 3  # loops one after another that are refused: their time grows with the cube

Follow = list[dict[int, int]]  # position -> next position -> in how many ways (2: two or more)


@dataclass(frozen=True)
class Suspect:
    """A text to time: it begins with `before`, continues with `round` many times, and then does not match."""

    before: str
    round: str


class Regex:
    """A pattern that was checked. Raises ModelError, which names `where`, when it is not supported, or when its time
    can grow faster than the square of a text's length."""

    def __init__(self, pattern: str, where: str) -> None:
        try:
            parser = Parser(pattern)
            self.suspects = _suspects(parser.tree, parser.samples)
        except Unsupported as error:
            raise ModelError(
                f"{where}: the regular expression {pattern!r:.120} is not supported: {error}. "
                "Use another revision of the model."
            ) from error


def _suspects(tree: Node, samples: list[str]) -> list[Suspect]:
    budget = _Budget()
    found: list[Suspect] = []
    for part in _parts(tree):
        found += _Automaton(part, budget).suspects(samples)
        if len(found) > MOST_SUSPECTS:
            raise Unsupported(f"more than {MOST_SUSPECTS} of its loops may have to be tried again")
    return found


def _parts(tree: Node) -> list[Node]:
    """The pattern, and the patterns of its look-arounds. Each is matched by itself."""
    parts, rest = [tree], [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, Check):
            if node.body is not None:
                parts.append(node.body)
                rest.append(node.body)
        elif isinstance(node, Loop):
            rest.append(node.body)
        elif isinstance(node, (Cat, Alt)):
            rest += node.parts
    return parts


class _Budget:
    def __init__(self) -> None:
        self._left = MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise Unsupported("it is too complicated to be looked through")


@dataclass
class _Piece:
    """A part of the pattern. `first`, `last`: its first and last positions, with the number of ways to each. `empty`:
    in how many ways it matches the empty text. `free`: those of `last` after which nothing can fail any more;
    `free_empty`: the same for the empty match."""

    first: dict[int, int]
    last: dict[int, int]
    empty: int
    free: set[int]
    free_empty: bool


_NOTHING = _Piece({}, {}, 1, set(), True)


def _add(into: dict[int, int], more: dict[int, int], ways: int = 1) -> None:
    for position, count in more.items():
        into[position] = min(2, into.get(position, 0) + count * ways)


class _Automaton:
    """The automaton of a pattern. Positions are the pattern's characters; `masks`: what each of them matches."""

    def __init__(self, tree: Node, budget: _Budget) -> None:
        self._budget = budget
        self._retried: list[frozenset[int]] = []
        self.masks: list[int] = []
        self.follow: Follow = []
        self.whole = self._build(tree)

    def _build(self, node: Node) -> _Piece:
        if isinstance(node, Set):
            if len(self.masks) >= MAX_POSITIONS:
                raise Unsupported(f"it comes to more than {MAX_POSITIONS} characters")
            self.masks.append(node.mask)
            self.follow.append({})
            at = len(self.masks) - 1
            return _Piece({at: 1}, {at: 1}, 0, {at}, False)
        if isinstance(node, Check):
            return _Piece({}, {}, 1, set(), False)
        if isinstance(node, Cat):
            piece = _NOTHING
            for part in node.parts:
                piece = self._behind(piece, self._build(part))
            return piece
        if isinstance(node, Alt):
            return self._either([self._build(part) for part in node.parts])
        return self._loop(node)

    def _behind(self, a: _Piece, b: _Piece) -> _Piece:
        self._join(a.last, b.first)
        first, last = dict(a.first), dict(b.last)
        if a.empty:
            _add(first, b.first, a.empty)
        if b.empty:
            _add(last, a.last, b.empty)
        free = b.free | (a.free if b.free_empty else set())
        return _Piece(first, last, min(2, a.empty * b.empty), free, a.free_empty and b.free_empty)

    def _either(self, pieces: Iterable[_Piece]) -> _Piece:
        made = _Piece({}, {}, 0, set(), False)
        for piece in pieces:
            _add(made.first, piece.first)
            _add(made.last, piece.last)
            made.empty = min(2, made.empty + piece.empty)
            made.free |= piece.free
            made.free_empty |= piece.free_empty
        return made

    def _loop(self, node: Loop) -> _Piece:
        if node.high == 0:
            return _NOTHING
        if node.low == node.high and _fixed(node.body):
            piece = _NOTHING
            for _ in range(node.low):
                self._budget.spend()
                piece = self._behind(piece, self._build(node.body))
            return piece
        body = self._build(node.body)
        if node.high != 1:
            # A bounded count is treated as unbounded: nested counts of 9 by 9 are just as bad.
            self._join(body.last, body.first)
            if body.empty and (node.high is not None or node.low > 1):
                # Which of the rounds match nothing is a choice, too.
                self._join(body.last, body.first)
        empty, free_empty = (body.empty, body.free_empty) if node.low else (1, True)
        return _Piece(body.first, body.last, empty, body.free, free_empty)

    def _join(self, last: dict[int, int], first: dict[int, int]) -> None:
        self._budget.spend(len(last) * len(first))
        for position, ways in last.items():
            _add(self.follow[position], first, ways)

    # -- what is bad about it

    def suspects(self, samples: list[str]) -> list[Suspect]:
        """Loops that may backtrack, but that are not refused: few follow one another."""
        loops = [loop for loop in self._loops() if not loop <= self.whole.free]
        for loop in loops:
            if self._doubles(loop):
                raise Unsupported(
                    "a text can go around one of its loops in several ways, whose number doubles with "
                    "every round (as in (a+)+b)"
                )
        self._refuse_chains(loops)
        return [self._example(loop, samples) for loop in loops]

    def _loops(self) -> list[frozenset[int]]:
        """Positions that can be reached again from themselves, in groups that can reach one another."""
        groups: list[frozenset[int]] = []
        seen: set[int] = set()
        backward: list[list[int]] = [[] for _ in self.masks]
        for position, nexts in enumerate(self.follow):
            for other in nexts:
                backward[other].append(position)
        for position in range(len(self.masks)):
            if position in seen:
                continue
            ahead = self._reach(position, [list(nexts) for nexts in self.follow])
            if position in ahead:
                group = frozenset(ahead & self._reach(position, backward))
                groups.append(group)
                seen |= group
        return groups

    def _reach(self, start: int, edges: list[list[int]]) -> set[int]:
        """All positions that can follow this one; itself only if it can come again."""
        found: set[int] = set()
        rest = [start]
        while rest:
            for other in edges[rest.pop()]:
                self._budget.spend()
                if other not in found:
                    found.add(other)
                    rest.append(other)
        return found

    def _doubles(self, loop: frozenset[int]) -> bool:
        """Whether a text leads from a position of the loop to itself in two ways."""
        for position in loop:
            if any(ways > 1 and other in loop for other, ways in self.follow[position].items()):
                return True
        # Two walkers that read the same text begin together, part, and meet where they began. Positions of a loop
        # reach one another, so one beginning stands for all.
        start = min(loop)
        seen: set[tuple[int, int, bool]] = set()
        rest = [(start, start, False)]
        while rest:
            a, b, parted = rest.pop()
            for c in self.follow[a]:
                for d in self.follow[b]:
                    self._budget.spend()
                    if c not in loop or d not in loop or not self.masks[c] & self.masks[d]:
                        continue
                    now = (c, d, parted or c != d)
                    if now == (start, start, True):
                        return True
                    if now not in seen:
                        seen.add(now)
                        rest.append(now)
        return False

    def _refuse_chains(self, loops: list[frozenset[int]]) -> None:
        """Raise ModelError for too many loops one after another that match the same text."""
        longest: dict[frozenset[int], int] = {}

        def length(loop: frozenset[int]) -> int:
            if loop not in longest:
                longest[loop] = 1
                behind = [o for o in self._retried if o != loop and self._shares(loop, o)]
                longest[loop] = 1 + max(map(length, behind), default=0)
            return longest[loop]

        self._retried = loops
        if any(length(loop) >= _MANY for loop in loops):
            raise Unsupported(
                f"{_MANY} of its loops can share a text in so many ways that the time grows with the cube of the "
                "text's length (as in a*a*a*b)"
            )

    def _shares(self, loop: frozenset[int], other: frozenset[int]) -> bool:
        """Whether one text can stay in `loop`, lead from it to `other`, and stay there."""
        for start in loop:
            for end in other:
                seen = {(start, start, end)}
                rest = [(start, start, end)]
                while rest:
                    a, b, c = rest.pop()
                    for x in self.follow[a]:
                        if x not in loop:
                            continue
                        for y in self.follow[b]:
                            mask = self.masks[x] & self.masks[y]
                            if not mask:
                                continue
                            for z in self.follow[c]:
                                self._budget.spend()
                                if z not in other or not mask & self.masks[z]:
                                    continue
                                if (x, y, z) == (start, end, end):
                                    return True
                                if (x, y, z) not in seen:
                                    seen.add((x, y, z))
                                    rest.append((x, y, z))
        return False

    def _example(self, loop: frozenset[int], samples: list[str]) -> Suspect:
        start = min(loop)
        before = self._path(list(self.whole.first), start, None)
        around = self._path([p for p in self.follow[start] if p in loop], start, loop)
        return Suspect(
            "".join(_plainest(self.masks[p], samples) for p in before[:-1]),
            "".join(_plainest(self.masks[p], samples) for p in around),
        )

    def _path(self, starts: list[int], end: int, inside: frozenset[int] | None) -> list[int]:
        """A path of positions from one of `starts` to `end`, both included."""
        came: dict[int, int | None] = dict.fromkeys(starts)
        rest = list(starts)
        while rest and end not in came:
            position = rest.pop(0)
            for other in self.follow[position]:
                if other not in came and (inside is None or other in inside):
                    came[other] = position
                    rest.append(other)
        path: list[int] = []
        at: int | None = end if end in came else None
        while at is not None:
            path.append(at)
            at = came[at]
        return path[::-1]


def _plainest(mask: int, samples: list[str]) -> str:
    """A character of the set, of printable ASCII if there is one; "" for an empty set."""
    taken = [c for i, c in enumerate(samples) if mask >> i & 1]
    return next((c for c in taken if " " <= c <= "~"), taken[0] if taken else "")


def _fixed(node: Node) -> bool:
    """Whether there is only one way to match it: no loop, no choice."""
    if isinstance(node, Cat):
        return all(map(_fixed, node.parts))
    if isinstance(node, Loop):
        return node.low == node.high and _fixed(node.body)
    return not isinstance(node, Alt)
