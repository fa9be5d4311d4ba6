"""Draws how a token's time is spent: python -m devtools.token_time RESULTS.jsonl docs/token-time.svg

With --prefill: how the time of a chunk in the middle of the prompt is spent.

RESULTS: bench results with a profile, one JSON object a line (`./dev bench --rows ... --profile --save
RESULTS.jsonl`, or `bench --profile --json`). One bar per result: its kernels, largest first, then the rest of a
token's wall time. The colours of the SVG follow the reader's light or dark colour scheme. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, MARGIN, BAR, LEGEND = 960, 16, 30, 20
REST = "the rest: gaps, and the GPU idle"
SMALL = "smaller kernels"
# Distinct from each other on white and on near-black, also for readers who cannot tell red from green.
COLOURS = (
    "#4477aa", "#ee9933", "#228866", "#aa4499", "#66aadd", "#bb5544", "#999933", "#6655bb", "#cc7799", "#44aa99",
    "#886644",
)  # fmt: skip
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1c1c1c }
  .title { font-weight: 600 } .inside { fill: #ffffff; font-size: 12px }
  .rest { fill: #d0d0d0 } .axis { stroke: #808080 }
  @media (prefers-color-scheme: dark) { text { fill: #e6e6e6 } .inside { fill: #ffffff } .rest { fill: #4a4a4a } }
"""


def group(kernel: Mapping[str, Any]) -> str:
    """Return the name of a kernel in the drawing: its label, or its family where that is several small kernels."""
    shader = str(kernel["shader"])
    for family, name in (("sample", "sampler"), ("attention", "attention"), ("delta", "DeltaNet")):
        if shader.startswith(family):
            return name
    return str(kernel["label"])


def groups(section: Mapping[str, Any]) -> Counter[str]:
    """Return the microseconds of one pass by group."""
    sums = Counter[str]()
    for kernel in section["kernels"]:
        sums[group(kernel)] += kernel["us"]
    return sums


def segments(section: Mapping[str, Any], named: Sequence[str]) -> list[tuple[str, float]]:
    """Return (name, microseconds) of a bar: the `named` groups, largest first, then SMALL and REST."""
    sums = groups(section)
    large = [(name, us) for name, us in sums.most_common() if name in named]
    total = sum(sums.values())
    wall = section.get("wall_us") or section.get("pass_us") or 0.0
    others = ((SMALL, total - sum(us for _, us in large)), (REST, wall - total))
    return large + [(name, us) for name, us in others if us > 0.05]


def drawing(results: Sequence[Mapping[str, Any]], part: str = "decode") -> str:
    """Return the SVG of a `part` of the profiles: "decode" or "prefill". Raises ValueError when no result has a
    profile."""
    results = [r for r in results if r.get("profile")]
    if not results:
        raise ValueError("no result with a profile: run the bench with --profile")
    sections = [r["profile"][part] for r in results]
    sums = sum((groups(section) for section in sections), Counter[str]())
    names = [name for name, _ in sums.most_common(len(COLOURS))]
    colour = {**dict(zip(names, COLOURS, strict=False)), SMALL: "#777777"}
    bars = [(r, s, segments(s, names)) for r, s in zip(results, sections, strict=True)]
    drawn = {name for *_, bar in bars for name, _ in bar}
    scale = (WIDTH - 2 * MARGIN) / max(sum(us for _, us in bar) for *_, bar in bars)
    out, y = [], MARGIN
    for result, section, bar in bars:
        out.append(text(MARGIN, y + 14, title(result, section), "title"))
        y += 22
        out += bar_rects(bar, y, scale, colour)
        y += BAR + 18
    legend = [*names, *(name for name in (SMALL, REST) if name in drawn)]
    columns, step = 4, (WIDTH - 2 * MARGIN) // 4
    for i, name in enumerate(legend):
        x, at = MARGIN + i % columns * step, y + i // columns * LEGEND
        out.append(rect(x, at, 12, 12, colour.get(name), name))
        out.append(text(x + 18, at + 11, name))
    height = y + -(-len(legend) // columns) * LEGEND + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-label="Microseconds by kernel">',
            f"<style>{STYLE}</style>",
            *out,
            "</svg>\n",
        ]
    )


def title(result: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """Return the title of a bar."""
    tokens, position = section["tokens"], section["position"]
    one = tokens == 1
    wall = section.get("wall_us") or section.get("pass_us") or section["kernels_us"]
    words = [
        str(result["model"]).removeprefix("random:"),
        re.sub(r" \(.*?\)", "", str(result.get("runtime", ""))),
        str(result.get("device") or ""),
        f"context {position:,}" if one else f"prompt of {result['prompt_tokens']:,}",
        f"{wall:,.0f} us {'a token' if one else f'for {tokens:,} tokens'}, {section['dispatches']} dispatches",
    ]
    return " · ".join(word for word in words if word)


def bar_rects(
    bar: Sequence[tuple[str, float]], y: float, scale: float, colour: Mapping[str, str]
) -> list[str]:
    """Return the rectangles of the segments, with the microseconds where there is room; the tooltip has the name."""
    out, x = [], float(MARGIN)
    for name, us in bar:
        width = us * scale
        out.append(rect(x, y, width, BAR, colour.get(name), f"{name}: {us:,.1f} us"))
        label = f"{us:,.0f}" if us >= 10 else f"{us:.1f}"
        if width > 8 * len(label) + 4:
            out.append(text(x + 5, y + 20, label, "" if name == REST else "inside"))
        x += width
    return out


def rect(x: float, y: float, width: float, height: float, fill: str | None, told: str) -> str:
    """Return a rectangle with the tooltip `told`; without a `fill` it has the colour of REST."""
    look = f'fill="{fill}"' if fill else 'class="rest"'
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" {look}>'
        f"<title>{escape(told)}</title></rect>"
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text."""
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y}"{look}>{escape(words)}</text>'


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--prefill", action="store_true", help="a chunk of the prompt, not a token")
    parsed = parser.parse_args(arguments)
    lines = parsed.results.read_text().splitlines()
    try:
        results = [json.loads(line) for line in lines if line.startswith("{")]
        svg = drawing(results, "prefill" if parsed.prefill else "decode")
    except ValueError as error:
        print(f"{parsed.results}: {error}", file=sys.stderr)
        return 1
    parsed.svg.write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
