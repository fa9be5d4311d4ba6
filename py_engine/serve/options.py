"""How a model is loaded: the options and their checks, and the progress that a load reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from py_engine.arguments import callback, flag, instance, shown, unknown_option, whole
from py_engine.blocks.kv_cache import KV_DTYPES, KvDtype
from py_engine.errors import InputError
from py_engine.graph.submit import GroupedSubmit, SingleSubmit, SubmitStrategy
from py_engine.host.gpu import Gpu
from py_engine.host.io import Io
from py_engine.inputs.tokenizer import require_text
from py_engine.serve.recovery import DeviceEvent
from py_engine.weights.formats import StorageForm

# The most tokens that an option may ask for; the model itself may take fewer.
MOST_CONTEXT = 1 << 31

# dtype -> how plain matrices are kept, dtype of the KV cache
_STORAGE: dict[str, tuple[StorageForm, KvDtype]] = {
    "auto": ("stored", "f16"),
    "f32": ("stored", "f32"),
    "f16": ("f16", "f16"),
    "q8": ("q8", "f16"),
    "q4": ("q4", "f16"),
}
DTYPES = tuple(_STORAGE)
KV_CHOICES = ("auto", *KV_DTYPES)
VisionChoice = Literal["auto", "lazy", "off"]
VISION_CHOICES: tuple[VisionChoice, ...] = ("auto", "lazy", "off")


@dataclass(frozen=True)
class Progress:
    """How far a load is. `loaded` and `total`: bytes when the phase is "weights", else 0. A "note" is no phase: its
    message says something unusual (damage was found, nothing can be stored, another tab is waited for, a model was
    unloaded to make room)."""

    phase: Literal["config", "weights", "kernels", "ready", "note"]
    loaded: int = 0
    total: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options of Engine.load and Device.load, which say what each means."""

    dtype: str = "auto"
    kv: str = "auto"
    vision: str = "auto"
    context: int | None = None
    context_classes: Sequence[int] | None = None
    memory_budget: int | None = None
    strategy: SubmitStrategy | None = None
    proven: Mapping[str, Any] | None = None
    tune: bool | None = None
    self_check: bool | None = None
    progress: bool | None = None
    on_progress: Callable[[Progress], object] | None = None
    on_device: Callable[[DeviceEvent], object] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> LoadOptions:
        """The options by name, checked. Raises InputError, also for an unknown name."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise unknown_option(name, known)
        made = cls(**options)
        if not isinstance(made.dtype, str) or made.dtype not in DTYPES:
            raise InputError(f"dtype={shown(made.dtype)}: choose one of {', '.join(DTYPES)}")
        if not isinstance(made.kv, str) or made.kv not in KV_CHOICES:
            raise InputError(f"kv={shown(made.kv)}: choose one of {', '.join(KV_CHOICES)}")
        if not isinstance(made.vision, str) or made.vision not in VISION_CHOICES:
            raise InputError(
                f"vision={shown(made.vision)}: choose one of {', '.join(VISION_CHOICES)}"
            )
        if made.memory_budget is not None:
            whole("memory_budget", made.memory_budget, 1, 1 << 53)
        if made.context is not None:
            whole("context", made.context, 1, MOST_CONTEXT)
        classes = made.context_classes
        if classes is not None:
            if not isinstance(classes, Sequence) or isinstance(classes, str):
                raise InputError(f"context_classes={shown(classes)}: give a list of tokens")
            classes = [whole("context_classes", n, 1, MOST_CONTEXT) for n in classes]
        instance("strategy", made.strategy, (SingleSubmit, GroupedSubmit), "a strategy to submit")
        instance("proven", made.proven, Mapping, "what the calibrator told, a dict")
        for name in ("tune", "self_check", "progress"):
            flag(name, getattr(made, name))
        for name in ("on_progress", "on_device"):
            callback(name, getattr(made, name))
        return replace(made, context_classes=classes)


DEFAULTS = LoadOptions()


def storage_of(dtype: str) -> tuple[StorageForm, KvDtype]:
    """For a dtype: the form of plain matrices, and the dtype of the KV cache unless another one is asked for."""
    return _STORAGE[dtype]


def tower_form(form: StorageForm) -> StorageForm:
    """How the matrices of a vision tower are stored beside a text model in `form`: never in 4 bits, which it bears
    badly."""
    return "f16" if form == "q4" else form


def check_place(model: object, gpu: object, io: object, host: object) -> None:
    """Check the arguments that say where a model is and where it goes. Raises InputError."""
    if not isinstance(model, str) or not model:
        raise InputError(
            f"model={shown(model)}: give a folder, a hub's ORGANISATION/NAME or random:PRESET as a str"
        )
    require_text(model, "model")
    instance("gpu", gpu, Gpu, "a Gpu of open_gpu()")
    instance("io", io, Io, "an Io of open_io()")
    instance("host", host, str, "the name of a host")
