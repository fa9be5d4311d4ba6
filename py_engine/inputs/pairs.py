"""How a tokenizer lays two texts out as one: `[CLS] query [SEP] document [SEP]` and its like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .tokenizer_json import MAX_AROUND

# One part of a pair: "A" or "B", the first or the second text, or ids of special tokens; and its token type.
Part = tuple[str | tuple[int, ...], int]


@dataclass(frozen=True)
class PairTemplate:
    """The parts of a pair, in order."""

    parts: Sequence[Part]

    @property
    def around(self) -> int:
        """Number of special tokens."""
        return sum(len(part) for part, _ in self.parts if not isinstance(part, str))

    def join(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids of the pair, and the token type of each."""
        ids: list[int] = []
        types: list[int] = []
        for part, kind in self.parts:
            piece = first if part == "A" else second if part == "B" else part
            ids += piece  # type: ignore[arg-type]  # a text's ids by its name, else the part itself
            types += [kind] * len(piece)
        return ids, types


def pair_template(processor: Mapping[str, Any] | None) -> PairTemplate | None:
    """What a tokenizer.json's post_processor makes of two texts; None if it says nothing of pairs, or nothing that
    can be read: few models need them."""
    if processor is None:
        return None
    try:
        kind = processor["type"]
        if kind == "Sequence":
            found = [pair_template(part) for part in processor["processors"]]
            return next((template for template in found if template is not None), None)
        if kind in ("BertProcessing", "RobertaProcessing"):
            cls, sep = (processor["cls"][1],), (processor["sep"][1],)
            if kind == "BertProcessing":
                return PairTemplate([(cls, 0), ("A", 0), (sep, 0), ("B", 1), (sep, 1)])
            return PairTemplate([(cls, 0), ("A", 0), (sep * 2, 0), ("B", 0), (sep, 0)])
        if kind != "TemplateProcessing" or not processor.get("pair"):
            return None
        return _of_template(processor["pair"], processor["special_tokens"])
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        return None


def _of_template(
    items: Sequence[Mapping[str, Any]], special: Mapping[str, Any]
) -> PairTemplate | None:
    parts: list[Part] = []
    for item in items:
        ((kind, value),) = item.items()
        part = value["id"] if kind == "Sequence" else tuple(special[value["id"]]["ids"])
        parts.append((part, value["type_id"]))
    template = PairTemplate(parts)
    texts = sorted(part for part, _ in parts if isinstance(part, str))
    numbers = [n for part, kind in parts for n in (kind, *(() if isinstance(part, str) else part))]
    right = all(type(n) is int and 0 <= n < 1 << 32 for n in numbers)
    return template if right and texts == ["A", "B"] and template.around <= MAX_AROUND else None
