"""Ministral 3: a Llama whose questions grow with the position, on YaRN (llama.cpp: `mistral3`)."""

from __future__ import annotations

from py_engine.convert.common_names import BLOCKS
from py_engine.convert.family import Config, Family, Tensors
from py_engine.convert.metadata import Metadata


def config(metadata: Metadata, config: Config, tensors: Tensors) -> Config:
    """YaRN with what grows the questions; transformers wants both in `rope_parameters`."""
    scaling = config.pop("rope_scaling", None)
    if scaling is None or scaling["rope_type"] != "yarn":
        raise metadata.refuse("rope.scaling.type", "is not yarn")
    return {
        "rope_parameters": {
            **scaling,
            "rope_theta": config.pop("rope_theta"),
            "beta_fast": metadata.number("rope.scaling.yarn_beta_fast", 0.0, 1e4, 32.0),
            "beta_slow": metadata.number("rope.scaling.yarn_beta_slow", 0.0, 1e4, 1.0),
            "mscale": 1.0,
            "mscale_all_dim": metadata.number("rope.scaling.yarn_log_multiplier", 0.0, 1e4, 1.0),
            "llama_4_scaling_beta": metadata.number("attention.temperature_scale", 0.0, 1e4),
        }
    }


FAMILY = Family(
    "ministral3", "Ministral3ForCausalLM", BLOCKS, paired=True,
    carries=frozenset({"attention.temperature_scale"}), config=config,
)  # fmt: skip
