"""GLM-4 (0414): norms before and after each branch, gate and up in one tensor, half of each head rotated."""

from __future__ import annotations

from py_engine.convert.common_names import ATTENTION, NORMS, QKV_BIASES
from py_engine.convert.family import Family

BLOCKS = {
    **NORMS,
    **ATTENTION,
    "post_attention_norm": "post_self_attn_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_mlp_layernorm",
}
FAMILY = Family("glm4", "Glm4ForCausalLM", BLOCKS, optional=(QKV_BIASES,), partial=True)
