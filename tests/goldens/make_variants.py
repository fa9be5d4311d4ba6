"""Writes variants.json: the logits that transformers gives for every checkpoint of tests/variants.py.

Run from the repository's root with a Python that has torch, transformers and safetensors:

    python -m tests.goldens.make_variants

transformers reads config.json and the weights by itself (from_pretrained, float32, eager), so it decides what a setting
means. A variant that is `like` another must have the same logits. Any other must differ from its family's first
variant, so a variant that tests nothing is refused here.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tests.variants import IDS, VARIANTS

TARGET = Path(__file__).parent / "variants.json"


@torch.inference_mode()
def logits(folder: Path) -> np.ndarray:
    """Logits after the last of IDS, [vocab]. Raises whatever transformers raises."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    auto = AutoModelForImageTextToText if kind == "mistral3" else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()(input_ids=torch.tensor([IDS])).logits[0, -1].numpy()


def nmse(a: np.ndarray, b: np.ndarray) -> float:
    """sum((a-b)^2) / sum(b^2)."""
    return float(((a - b) ** 2).sum() / (b**2).sum())


def main() -> None:
    """Write the logits of every variant."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    made: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    raised: dict[str, str] = {}
    wrong: list[str] = []
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            variant.write(Path(folder))
            try:
                torch.manual_seed(0)
                made[variant.name] = logits(Path(folder))
            except Exception as error:  # the engine must refuse what transformers cannot load
                raised[variant.name] = f"{type(error).__name__}: {str(error)[:80]}"
                print(f"{variant.name:32} raises {raised[variant.name]!r}", flush=True)
                if not variant.refused:
                    wrong.append(f"{variant.name} cannot be loaded")
                continue
        own = made[variant.name]
        base = made[first.setdefault(variant.family, variant.name)]
        other = made[variant.like] if variant.like else base
        told = nmse(own, other)
        print(
            f"{variant.name:32} std {own.std():.2f}  from {variant.like or 'base'} {told:.0e}",
            flush=True,
        )
        if variant.refused or own is base:
            continue
        if variant.like:
            if told > 1e-10:
                wrong.append(f"{variant.name} is not like {variant.like}")
        elif told < 1e-4:
            wrong.append(f"{variant.name} changes nothing")
    if wrong:
        raise SystemExit("\n".join(wrong))
    goldens = {
        v.name: [round(float(x), 6) for x in made[v.name]] for v in VARIANTS if v.refused is None
    }
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in goldens.items()]
    versions = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    body = ",\n".join(lines)
    TARGET.write_text(f'{{"versions": {versions},\n"logits": {{\n{body}\n}}}}\n')


if __name__ == "__main__":
    main()
