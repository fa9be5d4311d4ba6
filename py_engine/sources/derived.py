"""The derived file: a model's weights in the form in which a load uploads them after it has quantised plain matrices.

What the GPU makes of the checkpoint is read back once and stored. The next load uploads that: a quarter of the bytes of
bf16, and nothing to quantise. Small tensors are in the file as in the checkpoint, so a load reads no other file.

The file has no header: the place of a tensor follows from the jobs of the load. Tensors come in the order of the
checkpoint's files. A quantised one has all its fields first, row by row, then all its (scale, bias) pairs
(shaders/layout_quantise.wgsl). Nothing depends on the device: neither how layers are stacked nor where a matrix is cut
for a binding. The name is a digest of everything that decides the bytes, so a file of another form, version or set of
tensors is never taken for this one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from py_engine.graph.trace import Tensor
from py_engine.sources.jobs import FLOAT_BYTES, Job, TensorInfo

# Raise this when the order of bytes changes, or the result of the quantising kernel.
LAYOUT = 1


@dataclass(frozen=True)
class Made:
    """Bytes `start` to `end` of a tensor of the derived file, which are in `target` from byte `offset` on."""

    target: Tensor
    offset: int
    start: int
    end: int


class Derived:
    """Where the tensors of a derived file are. `pairs`: a tensor of the checkpoint, and the tensor here made of it."""

    def __init__(
        self, form: str, name: str, blob: str, pairs: Sequence[tuple[TensorInfo, TensorInfo]]
    ) -> None:
        self.form = form  # "q4" or "q8"
        self.name = name
        self.blob = blob
        self.pairs = pairs
        self.size = pairs[-1][1].end
        self._here = {source.name: here for source, here in pairs}

    @classmethod
    def of(cls, jobs: Sequence[Job], identity: Callable[[str], str]) -> Derived | None:
        """The file that these jobs fill; None when they quantise nothing. `identity(file)`: a string that tells the
        content of a file of the checkpoint from any other content."""
        sources: dict[TensorInfo, Job] = {}
        for job in sorted(jobs, key=lambda job: (job.tensor.file, job.tensor.start)):
            known = sources.setdefault(job.tensor, job)
            if _form(known) != _form(job):
                return None  # one tensor in two forms, which no family asks for
        forms = {_form(job) for job in sources.values()} - {""}
        if len(forms) != 1:
            return None
        (form,) = forms
        names = sorted({tensor.file for tensor in sources})
        rows = [
            (t.name, t.dtype, t.shape, t.file, t.start, _form(job), job.group_size)
            for t, job in sources.items()
        ]
        whole = json.dumps([LAYOUT, form, rows, [(name, identity(name)) for name in names]])
        blob = hashlib.sha256(whole.encode()).hexdigest()[:40]
        name = f"weights-{form}.v{LAYOUT}.{blob[:12]}"
        pairs, at = [], 0
        for source, job in sources.items():
            fields, sides = _sizes(job) if _form(job) else (source.nbytes, 0)
            end = at + fields + sides
            here = replace(source, file=name, start=at, end=end)
            if _form(job):
                here = replace(here, name=f"{source.name} as {form}", dtype="U32")
            pairs.append((source, here))
            at = end
        return cls(form, name, blob, pairs)

    def here(self, source: TensorInfo) -> TensorInfo:
        """The tensor in this file that was made of a tensor of the checkpoint."""
        return self._here[source.name]

    def from_file(self, file: str) -> list[TensorInfo]:
        """The tensors here that were made of one of the checkpoint's files."""
        return [here for source, here in self.pairs if source.file == file]

    def jobs(self, job: Job) -> list[Job]:
        """Jobs that fill the same place from the derived file."""
        here = self.here(job.tensor)
        if job.kind != "quantise":
            return [replace(job, tensor=here)]
        return [
            Job(here, made.start, made.end, "copy", made.target, made.offset)
            for made in made_of(job, job.start, job.end)
        ]


def made_of(job: Job, start: int, end: int) -> list[Made]:
    """What a quantising job makes of bytes start..end of its tensor: the fields, and the (scale, bias) pairs."""
    assert job.scales is not None
    size = FLOAT_BYTES[job.tensor.dtype]
    first, last = start // size, end // size
    target = job.target_element + (start - job.start) // size
    fields, _ = _sizes(job)
    pair = _pair_bytes(job)
    group = job.group_size
    return [
        Made(job.target, target * job.bits // 8, first * job.bits // 8, last * job.bits // 8),
        Made(
            job.scales, target // group * pair, fields + first // group * pair, fields + last // group * pair
        ),
    ]  # fmt: skip


def is_current(name: str) -> bool:
    """Whether the name of a derived file says that it has this version's layout."""
    return name.split(".")[1:2] == [f"v{LAYOUT}"]


def sums_of(sums: Mapping[str, object], form: str) -> list[str]:
    """The names of tensors quantised to a form, among the keys of `sums`."""
    return [name for name in sums if name.endswith(f" as {form}")]


def _form(job: Job) -> str:
    return f"q{job.bits}" if job.kind == "quantise" else ""


def _pair_bytes(job: Job) -> int:
    return 8 if job.tensor.dtype == "F32" else 4


def _sizes(job: Job) -> tuple[int, int]:
    """Bytes of all fields and of all pairs of a quantising job's tensor."""
    elements = job.tensor.nbytes // FLOAT_BYTES[job.tensor.dtype]
    return elements * job.bits // 8, elements // job.group_size * _pair_bytes(job)
