"""The table of what a token costs (docs/mobile.md) has the numbers that the code counts today."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devtools import counts
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner


def test_the_table_is_current() -> None:
    page = counts.PAGE.read_text(encoding="utf-8")
    told = page.split(counts.BEGIN)[1].split(counts.END)[0].strip()
    assert told == counts.table().strip(), "make it anew: ./dev counts --write"


@pytest.mark.parametrize("name", ["qwen2-mlx4-g64", "qwen3.5-mlx4-g64"])
def test_bytes_up_and_down(open_software_gpu: Callable[..., Gpu], run: Runner, name: str) -> None:
    """The bytes that a decoded token moves on a real device, between the first and the last token of an answer."""
    gpu = open_software_gpu("wgpu")
    engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, dtype="f32", context=64))
    run(engine.generate_ids(list(range(9)), 24, ignore_eos=True))
    traffic = engine.info()["traffic"]
    run(engine.close())
    assert traffic == {
        "upload_bytes_per_token": counts.UP,
        "readback_bytes_per_token": counts.DOWN,
    }
