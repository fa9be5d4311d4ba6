"""The self-check: right numbers on every host, and what happens when a driver computes wrongly.

The faulty drivers here are real devices whose compiler is given other source or constants than it was sent.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from py_engine.errors import HostError, SelfCheckError
from py_engine.generate import golden
from py_engine.generate.self_check import Outcome, SelfCheck
from py_engine.graph.kernels import Kernels
from py_engine.graph.submit import GroupedSubmit, SingleSubmit
from py_engine.graph.trace import Call, kernel
from py_engine.host.gpu import Gpu, Pipeline
from py_engine.models.kv_cache import KvDtype
from py_engine.ops.matvec import MatvecTask, MatvecTuning
from py_engine.serve.engine import Engine
from py_engine.serve.loading import Progress
from tests import reference
from tests.conftest import Runner

NAME = "qwen3.5-mlx4-g64"
Change = Callable[[str, str, Mapping[str, float]], tuple[str, Mapping[str, float]]]
SHUFFLED = MatvecTuning(64, 4, 2, subgroups=True)


def task(form: str) -> MatvecTask:
    group = 64 if form.startswith("q") else 0
    return MatvecTask(256, 512, form, group, "bf16", "store", False)  # type: ignore[arg-type]


def calls(*tasks: MatvecTask) -> list[Call]:
    """As a model with attention and DeltaNet would have them."""
    stems = [("matvec", t) for t in tasks] + [("attention_decode", None), ("delta_step", None)]
    return [Call(stem, kernel(stem), [], frozenset(), (1, 1, 1), t) for stem, t in stems]


def check(
    gpu: Gpu, run: Runner, form: str = "q4", kv_dtype: KvDtype = "f32", subgroups: bool = False
) -> Outcome:
    async def run_it() -> Outcome:
        kernels = Kernels(gpu)
        forms = {task(form): SHUFFLED} if subgroups else {}
        made = SelfCheck(
            gpu, kernels, SingleSubmit(), calls(task(form)), gpu.features, kv_dtype, forms
        )
        try:
            return await made.run()
        finally:
            await kernels.settle()

    outcome: Outcome = run(run_it())
    return outcome


class Compiler:
    """A device's compiler that can be broken; a fault that changed nothing that was compiled fails the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.changed: int | None = None  # pipelines compiled from other input; None: not broken

    def break_(self, gpu: Gpu, change: Change) -> None:
        """From now on the device compiles what `change` makes of (label, code, constants)."""
        compiler = gpu.create_pipeline
        self.changed = 0

        async def faulty(label: str, code: str, constants: Mapping[str, float]) -> Pipeline:
            try:
                given = change(label, code, constants)
            except HostError:
                self.changed += 1  # type: ignore[operator]
                raise
            self.changed += given != (code, constants)  # type: ignore[operator]
            return await compiler(label, *given)

        self._monkeypatch.setattr(gpu, "create_pipeline", faulty)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    it = Compiler(monkeypatch)
    yield it
    assert it.changed != 0, (
        "the fault touched nothing: what it looks for is no longer in the shaders"
    )


def lonely_shuffles(
    label: str, code: str, constants: Mapping[str, float]
) -> tuple[str, Mapping[str, float]]:
    """A driver whose shuffles by one give every lane its own value."""
    return code.replace("subgroupShuffleXor(v, 1u)", "v"), constants


# ---- the numbers


def test_numbers_are_what_the_script_gives() -> None:
    script = runpy.run_path(str(reference.GOLDENS / "make_self_check.py"))
    assert script["TARGET"].read_text(encoding="utf-8") == script["text"]()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("scale_format", ["f16", "bf16", "f32"])
def test_packed_matrices_hold_the_values(group: int, scale_format: str) -> None:
    """Quantised forms, unpacked as MLX's documentation has them, and float forms are the same matrix."""
    m = golden.matvec_matrix()
    values = np.array(m.values()).reshape(m.rows, m.cols)
    for form in ("q4", "q8"):
        packed = m.pack(form, group, scale_format)  # type: ignore[arg-type]
        q = np.frombuffer(packed.weight, np.uint8)
        if form == "q4":
            q = np.stack([q & 15, q >> 4], -1).ravel()
        raw = packed.scales
        if scale_format == "bf16":
            pairs = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            pairs = np.frombuffer(raw, np.float16 if scale_format == "f16" else np.float32)
        scale, bias = pairs.reshape(-1, 2).astype(np.float64).T[:, :, None]
        assert (scale * q.reshape(-1, group) + bias == values.reshape(-1, group)).all()
    assert (np.frombuffer(m.pack("f16", 0, "f16").weight, np.float16) == values.ravel()).all()
    assert (np.frombuffer(m.pack("f32", 0, "f16").weight, np.float32) == values.ravel()).all()


@pytest.mark.parametrize(
    ("form", "kv_dtype", "subgroups"), [("q4", "f16", True), ("bf16", "f32", False)]
)
def test_right_numbers(
    gpu: Gpu, run: Runner, form: str, kv_dtype: KvDtype, subgroups: bool
) -> None:
    before = gpu.counters.live_buffers
    outcome = check(gpu, run, form, kv_dtype, subgroups and "subgroups" in gpu.features)
    assert outcome.checks == 5 and outcome.wrong == []
    assert gpu.counters.live_buffers == before


# ---- faulty drivers


@pytest.fixture
def device(open_software_gpu: Callable[..., Gpu]) -> Gpu:
    """One of its own that does not admit to be software: models are checked on it, and use subgroups."""
    gpu = open_software_gpu("wgpu")
    gpu.info = replace(gpu.info, fallback=False)
    return gpu


def test_a_feature_that_fails_is_not_used(device: Gpu, run: Runner, compiler: Compiler) -> None:
    assert "subgroups" in device.features
    compiler.break_(device, lonely_shuffles)
    prompt = reference.prompt(NAME, 7)
    told: list[Progress] = []

    async def logits(self_check: bool) -> tuple[np.ndarray, Engine]:
        engine = await Engine.load(
            str(reference.folder(NAME)), gpu=device, dtype="f32", context=64, self_check=self_check,
            on_progress=told.append,
        )  # fmt: skip
        try:
            return np.frombuffer(await engine.logits(prompt.ids), np.float32).copy(), engine
        finally:
            await engine.close()

    unchecked, engine = run(logits(False))
    assert engine.info()["self_check"] is None
    assert not reference.nmse(unchecked, prompt.logits) < 1e-2  # what the check is for
    got, engine = run(logits(True))
    assert reference.nmse(got, prompt.logits) <= reference.NMSE_F32
    found = engine.info()["self_check"]
    assert found["dropped"] == ["subgroups"]
    assert "matvec" in found["wrong"][0]
    notes = [p.message for p in told if p.phase == "note"]
    assert len(notes) == 1 and "without subgroups" in notes[0]
    assert device.counters.live_buffers == 0


@pytest.mark.parametrize("stem", ["norm", "matvec", "matmul", "attention_decode", "delta_step"])
def test_what_fails_without_features_is_an_error(
    device: Gpu, run: Runner, compiler: Compiler, stem: str
) -> None:
    def wrong_sizes(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        """A part of each row is forgotten."""
        changed = dict(constants)
        if label.startswith(stem + "("):
            for name in ("K", "D", "DK"):
                if name in changed:
                    changed[name] -= 32
        return code, changed

    compiler.break_(device, wrong_sizes)
    with pytest.raises(SelfCheckError, match="computes wrongly") as caught:
        check(device, run)
    kind = {"attention_decode": "attention", "delta_step": "DeltaNet"}.get(stem, stem)
    assert f"wrongly: {kind}" in str(caught.value)
    assert device.counters.live_buffers == 0


def test_a_kernel_that_does_not_compile_is_replaced_too(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    def refuse(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        if "subgroupShuffleXor" in code:
            raise HostError(f"kernel {label!r} does not compile")
        return code, constants

    compiler.break_(device, refuse)
    outcome = check(device, run, subgroups=True)
    assert outcome.dropped == {"subgroups"}
    assert "does not run" in outcome.wrong[0].reason


def test_a_load_that_fails_the_check_leaves_nothing(
    device: Gpu, run: Runner, compiler: Compiler
) -> None:
    def large_epsilon(
        label: str, code: str, constants: Mapping[str, float]
    ) -> tuple[str, Mapping[str, float]]:
        return code, {**constants, "EPS": 0.5} if label.startswith("norm(") else constants

    compiler.break_(device, large_epsilon)
    strategy = GroupedSubmit(1)
    with pytest.raises(SelfCheckError, match="norm"):
        run(Engine.load(str(reference.folder(NAME)), gpu=device, context=64, strategy=strategy))
    assert device.counters.live_buffers == 0
