"""MLX's affine quantisation: packed sizes, and which width and group each layer of a checkpoint has.

A linear layer or embedding `name` [out, in] of b bits in groups of g is stored as `name.weight` u32 [out, in * b / 32],
`name.scales` and `name.biases` [out, in / g]; w = scale * q + bias. Element i of a row is the field at bits
[i*b, i*b + b) of the row's words, lowest first (mlx `mx.quantize`, mode "affine").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from py_engine.errors import ModelError
from py_engine.sources.config import QuantizationConfig
from py_engine.sources.jobs import TensorInfo
from py_engine.weights.formats import Quantization

FLOATS = ("F16", "BF16", "F32")
MLX_DEFAULT = (4, 64)  # bits and group that mlx itself takes where an override leaves them out


def packed_words(cols: int, bits: int) -> int:
    """How many u32 words a row of `cols` elements has. `cols` is a multiple of 32."""
    return cols * bits // 32


def is_packed(tensors: Mapping[str, TensorInfo], name: str) -> bool:
    """Whether layer `name` is quantised: if and only if it has scales, whatever the config says."""
    return f"{name}.scales" in tensors


def quantization_of(
    tensors: Mapping[str, TensorInfo], config: QuantizationConfig | None
) -> Callable[[str], Quantization | None]:
    """A function that gives the width and group of the layer of a name; None for a plain layer.

    The function raises ModelError when the file's shapes and the config's numbers cannot both be right.
    """

    def of(name: str) -> Quantization | None:
        return packing_of(tensors, name, config) if is_packed(tensors, name) else None

    return of


def packing_of(
    tensors: Mapping[str, TensorInfo], name: str, config: QuantizationConfig | None
) -> Quantization:
    """Width and group of packed layer `name`. Raises ModelError."""
    trio = {part: tensors.get(f"{name}.{part}") for part in ("weight", "scales", "biases")}
    weight, scales, biases = trio["weight"], trio["scales"], trio["biases"]
    if weight is None or scales is None or biases is None:
        missing = next(part for part, info in trio.items() if info is None)
        raise ModelError(
            f"{name} is quantised but {name}.{missing} is missing. Only affine quantisation (weight, scales"
            " and biases) is supported; or the download is not complete."
        )
    declared = config.of(name) if config is not None else None
    if declared is None or config is None:
        raise ModelError(
            f"{name}.scales is in the weights, but config.json declares no quantization for it. "
            "Convert the model again with mlx_lm, or fix its config.json."
        )
    if scales.dtype not in FLOATS or weight.dtype != "U32":
        raise ModelError(
            f"{name}: weight is {weight.dtype} and scales are {scales.dtype}; affine quantisation has U32"
            f" and one of {', '.join(FLOATS)}. Other formats are not supported."
        )
    if len(weight.shape) != 2 or len(scales.shape) != 2 or scales.shape != biases.shape:
        raise ModelError(
            f"{name}: shapes of weight {list(weight.shape)}, scales {list(scales.shape)} and biases"
            f" {list(biases.shape)} do not belong together. Convert the model again."
        )
    for defaults in ((config.default.bits, config.default.group_size), MLX_DEFAULT):
        bits = declared.bits or defaults[0]
        group = declared.group_size or defaults[1]
        if bits is None or group is None or group * bits % 32:
            continue
        # in = words * 32 / bits = groups * group_size
        words, groups = weight.shape[1], scales.shape[1]
        if weight.shape[0] == scales.shape[0] and words * 32 == groups * group * bits:
            return Quantization(bits, group)
    raise ModelError(
        f"{name}: weight {list(weight.shape)} and scales {list(scales.shape)} are not {declared.bits or 4} bits"
        f" in groups of {declared.group_size or 64}, as config.json says. Config and weights disagree:"
        " check the revision."
    )
