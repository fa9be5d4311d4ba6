"""The tensors of a checkpoint by name: what there is, what was asked for, what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from py_engine.errors import ModelError
from py_engine.sources.jobs import FLOAT_BYTES, TensorInfo

# Weight norm (Salimans & Kingma 2016, arXiv:1602.07868): how a module's lengths and directions are called, by torch's
# nn.utils.weight_norm and nn.utils.parametrizations.weight_norm.
WEIGHT_NORM = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


class NamedTensors:
    """Those of one model, of all its sets of files. Names of a set of its own begin with its folder: `2_Dense/`."""

    def __init__(self, tensors: Mapping[str, TensorInfo], family: str) -> None:
        self._tensors = tensors
        self._family = family
        self._known: set[str] = set()  # tensors that were asked for, or left out on purpose

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this full name."""
        return name in self._tensors

    def has_under(self, prefix: str) -> bool:
        """Whether the name of any tensor begins with this."""
        return any(name.startswith(prefix) for name in self._tensors)

    def leave(self, module: str) -> None:
        """Note that the matrix of this module, plain or packed, is left out on purpose."""
        parts = ("weight", "scales", "biases", *(part for pair in WEIGHT_NORM for part in pair))
        names = {f"{module}.{part}" for part in parts}
        self._known |= names & self._tensors.keys()

    def ignore(self, name: str) -> None:
        """Note that the tensor of this full name, if there is one, is left out on purpose."""
        self._known |= {name} & self._tensors.keys()

    def unused(self) -> list[str]:
        """Names of the tensors that were neither asked for nor left out on purpose, sorted."""
        return sorted(self._tensors.keys() - self._known)

    def uses(self, module: str) -> bool:
        """Whether a tensor right under this module (`module`.weight and the like) was asked for."""
        names = (name.replace(".parametrizations.weight.", ".") for name in self._known)
        return module in {name.rpartition(".")[0] for name in names}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor of this full name; None when the checkpoint has no such tensor."""
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def _find(self, name: str) -> TensorInfo:
        info = self._tensors.get(name)
        if info is None:
            raise ModelError(
                f"{self._family}: tensor {name!r} is missing from the checkpoint. config.json and weights "
                "disagree, or the download is not complete: check the repository's revision."
            )
        self._known.add(name)
        return info

    def _shape_error(self, info: TensorInfo, wanted: Sequence[int], why: str) -> ModelError:
        return ModelError(
            f"{self._family}: {info.name} is {list(info.shape)}, expected {list(wanted)} {why}. "
            "config.json and weights disagree: check the revision."
        )

    def _floats(self, name: str, allowed: Sequence[tuple[int, ...]]) -> TensorInfo:
        """A tensor of floats that has one of these shapes."""
        info = self._find(name)
        if tuple(info.shape) not in allowed:
            raise self._shape_error(info, allowed[0], "from config.json")
        if info.dtype not in FLOAT_BYTES:
            raise ModelError(
                f"{self._family}: {name} has dtype {info.dtype}, expected F32, F16 or BF16"
            )
        return info
