"""Writes convert_logits.json: the logits that transformers gives for the tiny models whose GGUF files
tests/test_convert_logits.py converts and loads.

    python -m tests.goldens.make_convert_logits     (from the repository's root; torch, transformers)
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from tests.convert_models import CASES, IDS, values_of


@torch.inference_mode()
def logits(name: str) -> list[float]:
    """Logits after the last of IDS, [vocab], of the model in float32 with the case's weights."""
    case = CASES[name]
    config = AutoConfig.for_model(**case["config"])
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    weights = {key: torch.from_numpy(value) for key, value in values_of(case).items()}
    left, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and set(left) <= {"lm_head.weight"}, (name, left, unknown)
    model.tie_weights()
    row = model.eval()(input_ids=torch.tensor([IDS])).logits[0, -1]
    print(f"{name:16} std {float(row.std()):.2f}", flush=True)
    return [round(float(x), 5) for x in row]


def main() -> None:
    """Write the logits of every case."""
    torch.set_num_threads(1)
    lines = [f"{json.dumps(name)}: {json.dumps(logits(name))}" for name in CASES]
    versions = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    body = ",\n".join(lines)
    target = Path(__file__).parent / "convert_logits.json"
    target.write_text(f'{{"versions": {versions},\n"logits": {{\n{body}\n}}}}\n')


if __name__ == "__main__":
    main()
