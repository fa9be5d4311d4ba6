"""The defaults that depend on the kind of device: each kind's row, in one place.

    by machine   desktop; phone or tablet; iPhone or iPad         memory budget, context, dtype, losses
    by browser   WebKit; any other, and CPython                   how commands are submitted
    by adapter   in hardware; in software                         self-check, measured forms of kernels

A number that is measured on the user's device is not here: how many dispatches WebKit takes (serve/calibration.py), and
which form of a kernel is fastest (checks/autotune.py). Nor are the forms of kernels on software adapters, which stand
beside the others (`tuning` in ops/matvec.py and ops/matmul.py). The page is MicroPython, which cannot import this file;
app/device.py and app/crash.py have copies of numbers, and tests/test_estimate.py holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Defaults of a kind of machine.

    memory_budget: GPU bytes for all models together; None: no limit. context: tokens. dtype: what `dtype="auto"` of
    Engine.load means. losses: how many losses of the GPU are tolerated per load or answer, or in a row while idle.
    picture_pixels: what pictures are resized to at most; None: what the model's files say. decoded_pixels: how large a
    picture may be before that.
    """

    memory_budget: int | None
    context: int
    dtype: str
    losses: int
    picture_pixels: int | None
    decoded_pixels: int


DESKTOP = Profile(
    memory_budget=None,
    context=4096,
    dtype="auto",
    losses=5,
    picture_pixels=None,
    decoded_pixels=100_000_000,
)
# Phones and tablets. iPadOS and iOS close a page that takes between 1.5 and 2 GB, and Python's heap, the page and the
# pieces on their way to the GPU count too. These devices lose the GPU when memory is short: a smaller setting helps
# then, trying again does not. A photo of 50 megapixels is 200 MB when it is decoded.
HANDHELD = Profile(
    memory_budget=1_200_000_000,
    context=4096,
    dtype="q4",
    losses=1,
    picture_pixels=1 << 20,
    decoded_pixels=51_000_000,
)
# 256 rows of the prompt for a picture of Qwen3.5: half of the context.
IOS = Profile(
    memory_budget=HANDHELD.memory_budget,
    context=512,
    dtype="q4",
    losses=1,
    picture_pixels=1 << 18,
    decoded_pixels=HANDHELD.decoded_pixels,
)


def profile_of(handheld: bool, ios: bool = False) -> Profile:
    """The row of a machine."""
    return IOS if ios else HANDHELD if handheld else DESKTOP


@dataclass(frozen=True)
class SubmitProfile:
    """How commands are submitted in a kind of browser.

    dispatches: in one command buffer, until more were proven on the device; 0: all of a plan. one_in_flight: a
    command buffer, a copy or a read is submitted only when the one before it is done.
    """

    dispatches: int
    one_in_flight: bool


# One dispatch a command buffer, each awaited, computes right wherever WebKit was seen to compute at all.
WEBKIT = SubmitProfile(dispatches=1, one_in_flight=True)
NOT_WEBKIT = SubmitProfile(dispatches=0, one_in_flight=False)


@dataclass(frozen=True)
class AdapterProfile:
    """Defaults of a kind of adapter.

    self_check: whether kernels are checked before the first answer. measured_forms: whether forms of kernels that were
    measured on this adapter are used, and new ones measured where asked. wide_chunks: whether long prompts run in wide
    chunks where memory allows it (generate/passes.py).
    """

    self_check: bool
    measured_forms: bool
    wide_chunks: bool


HARDWARE = AdapterProfile(self_check=True, measured_forms=True, wide_chunks=True)
# The check takes long in software, and all forms of a kernel and chunks of all sizes are about equally fast.
SOFTWARE = AdapterProfile(self_check=False, measured_forms=False, wide_chunks=False)


def adapter_profile(software: bool) -> AdapterProfile:
    """The row of an adapter (AdapterInfo.fallback: it computes in software)."""
    return SOFTWARE if software else HARDWARE
