"""Names that most families share: a layer with two norms, attention, and a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping

ATTENTION: Mapping[str, str] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
MLP: Mapping[str, str] = {
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HEAD_NORMS: Mapping[str, str] = {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
BLOCKS: Mapping[str, str] = {**NORMS, **ATTENTION, **MLP}

QKV_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
ATTENTION_BIASES = (*QKV_BIASES, "attn_output.bias")
MLP_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")
