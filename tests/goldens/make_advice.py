"""Writes advice.json: which logits processors transformers runs for a generation_config.json.

Run with a Python that has torch and transformers:

    python tests/goldens/make_advice.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import LogitsProcessorList

TARGET = Path(__file__).parent / "advice.json"
ON = {"do_sample": True}
CASES = [
    {},
    {"do_sample": None},
    {"do_sample": False, "temperature": 0.7, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.8},
    {"repetition_penalty": 1.1},
    {"do_sample": False, "repetition_penalty": 1.1, "temperature": 0.6},
    ON,
    {**ON, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    {**ON, "temperature": 0.6, "top_p": 0.9},
    {**ON, "top_k": 64, "top_p": 0.95},
    {**ON, "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05},
    {**ON, "temperature": None, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None},
    {**ON, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "min_p": 0.0},
    {**ON, "top_k": 1},
    {**ON, "top_p": 0.0},
    {**ON, "top_p": 1},
    {**ON, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "no_repeat_ngram_size": 0},
    {**ON, "typical_p": 0.9},
    {**ON, "epsilon_cutoff": 3e-4},
    {**ON, "no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 3},
    {**ON, "suppress_tokens": [3, 4]},
    {**ON, "suppress_tokens": None, "bad_words_ids": None, "forced_eos_token_id": None},
    {**ON, "max_new_tokens": 2048, "transformers_version": "4.51.0", "x": 5},
]  # fmt: skip
VALUES = {
    "RepetitionPenaltyLogitsProcessor": "penalty",
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
}


def main() -> None:
    """Write all cases, as generate() would prepare them."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
        )
    )  # fmt: skip
    made = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "generation_config.json").write_text(json.dumps(case))
            model.generation_config = GenerationConfig.from_pretrained(folder)
        prepared, _ = model._prepare_generation_config(None)
        model._prepare_special_tokens(prepared, False, device="cpu")
        processors = model._get_logits_processor(
            prepared, input_ids_seq_length=3, encoder_input_ids=torch.tensor([[1, 2, 3]]),
            logits_processor=LogitsProcessorList(), device="cpu", model_kwargs={},
        )  # fmt: skip
        found = {}
        for processor in processors:
            name = type(processor).__name__
            found[name] = float(getattr(processor, VALUES[name])) if name in VALUES else None
        print(case, bool(prepared.do_sample), found)
        made.append({"config": case, "sampled": bool(prepared.do_sample), "processors": found})
    body = {"transformers": transformers.__version__, "cases": made}
    TARGET.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
