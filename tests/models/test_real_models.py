"""Real weights: our 8-bit conversions answer as transformers does in float32 on the same GGUF files.

Minutes on two cores (a token of the 0.5B takes seconds on lavapipe), so two prompts a model run by
default and both must be equal; JERBOA_ALL_PROMPTS=1 runs all six, of which five must be: 8 bits
move logits by more than the narrowest margins of real_models.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner, software_adapter

ROOT = Path(__file__).parents[2]
GGUF = ROOT / ".models" / "gguf"
HOST = "wgpu"
ALL = bool(os.environ.get("JERBOA_ALL_PROMPTS"))
STOP = {1, 106, 151643, 151645}  # <eos>, <end_of_turn>; <|endoftext|>, <|im_end|>

pytestmark = [pytest.mark.slow, pytest.mark.real_model]


class Real:
    """A converted model, loaded, and its reference."""

    def __init__(self, engine: Any, golden: dict[str, Any]) -> None:
        self.engine, self.golden = engine, golden

    @property
    def cases(self) -> list[dict[str, Any]]:
        """All six cases, or the two whose narrowest margin is the widest."""
        cases: list[dict[str, Any]] = self.golden["cases"]
        return cases if ALL else sorted(cases, key=lambda case: -min(case["margins"]))[:2]


@pytest.fixture(scope="module", params=sorted(reference.real_models()))
def real(
    request: pytest.FixtureRequest, run: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    """The package's GGUF, converted to 8 bits by the command line and loaded."""
    golden = reference.real_models()[request.param]
    source = GGUF / golden["gguf"]
    if not source.exists():
        pytest.skip(f"{source} is not there: devtools/package_models.py fetches it")
    target = tmp_path_factory.mktemp("real") / request.param
    options = ["--bits", "8", "--group-size", "64"]
    subprocess.run(
        [sys.executable, "-m", "py_engine", "convert", str(source), str(target), *options],
        cwd=ROOT,
        check=True,
        timeout=900,
    )
    with software_adapter(HOST):
        engine = run(Engine.load(str(target), dtype="f32", host=HOST, context=128))
    yield Real(engine, golden)
    run(engine.close())


def test_greedy_as_the_float32_reference(real: Real, run: Runner) -> None:
    report = []
    for case in real.cases:
        expected = case["tokens"]
        end = next((i for i, token in enumerate(expected) if token in STOP), len(expected))
        tokens = run(
            real.engine.generate_ids(case["prompt_ids"], max_tokens=len(expected), temperature=0)
        )
        report.append(
            (list(tokens) == expected[:end], case["prompt"], list(tokens), expected[:end])
        )
    missed = [entry for entry in report if not entry[0]]
    assert len(missed) <= (1 if ALL else 0), "\n".join(map(str, missed))
