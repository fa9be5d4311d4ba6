"""Formats a bench's profile as text. It imports only the standard library, so it runs without a WebGPU package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COARSE_NS = 2000


def profile_text(found: Mapping[str, Any]) -> str:
    """The `profile` of a bench result: a table of kernels for decode and for prefill, each with its sums."""
    step = found["clock_step_ns"]
    clock = f"clock: {found['clock']}"
    if step:
        clock += f" in steps of {step:,} ns"
    if step > _COARSE_NS:
        clock += (
            " (rounded by the browser or driver, in Chromium unless --enable-webgpu-developer-features is given; "
            "kernels are timed many at a time, single dispatches are not)"
        )
    lines = [clock, f"memory bandwidth: {found['bandwidth_gb_s']:,.1f} GB/s of plain reads"]
    for name in ("decode", "prefill"):
        lines += ["", *_section_lines(name, found[name])]
    return "\n".join(lines)


def _section_lines(name: str, section: Mapping[str, Any]) -> list[str]:
    tokens = section["tokens"]
    what = "1 token" if tokens == 1 else f"{tokens} tokens"
    width = max(24, *(len(_name(k)) for k in section["kernels"]))
    lines = [
        f"{name}: {what} at position {section['position']}, {section['dispatches']} dispatches",
        f"{'kernel':<{width}} {'count':>5} {'us each':>10} {'us':>10} {'share':>6} "
        f"{'KB each':>10} {'GB/s':>8} {'of max':>6}",
    ]
    for k in section["kernels"]:
        lines.append(
            f"{_name(k):<{width}} {k['count']:>5} {k['us_each']:>10,.2f} {k['us']:>10,.1f} "
            f"{100 * k['share']:>5.1f}% {k['bytes_each'] / 1e3:>10,.1f} {k['gb_s']:>8,.1f} "
            f"{k['bandwidth_percent']:>5.1f}%"
        )
    # Messages of a browser's worker have no keys without a value.
    for label, value in (
        ("sum of kernels, each repeated back to back", section["kernels_us"]),
        ("one pass on the GPU", section.get("pass_us")),
        ("  of it in kernels run alone", section.get("alone_us")),
        # One pass and two timestamps for each kernel may cost more than the gaps, so these differences can be negative.
        ("  of it between kernels", section.get("between_kernels_us")),
        ("as many empty dispatches in a chain", section.get("empty_us")),
        ("wall time in the normal mode", section.get("wall_us")),
        ("  of it the GPU was idle", section.get("idle_us")),
    ):
        told = "not measured" if value is None else f"{max(0.0, value):,.1f} us"
        lines.append(f"{label:<44} {told:>16}")
    lines.append(
        f"reads {section['read_bytes'] / 1e6:,.2f} MB of weights, KV cache and state: {section['gb_s']:,.1f} GB/s, "
        f"{section['bandwidth_percent']:.1f} % of the bandwidth"
    )
    return lines


def _name(kernel: Mapping[str, Any]) -> str:
    label, shader = str(kernel["label"]), str(kernel["shader"])
    return label if label == shader else f"{label} ({shader})"
