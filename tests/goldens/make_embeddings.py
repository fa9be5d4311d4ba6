"""Makes the tiny random text encoders of tests/goldens/bert-*/ with the vectors that transformers computes with them,
and real_embeddings.json: ids and vectors of a few texts from the real all-MiniLM-L6-v2.

Run with a Python that has torch, transformers, safetensors and tokenizers:

    python tests/goldens/make_embeddings.py [FOLDER OF all-MiniLM-L6-v2]

The engine takes no part in this. embedding.npz holds, for texts of each length, `ids_N` and the unit vectors `mean_N`,
`first_N`, `last_N` [384 or so], pooled from BertModel's last hidden states in float32. It also holds `texts`, which are
hostile ones with their ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

HERE = Path(__file__).parent
LENGTHS = (1, 2, 33, 80)
TEXTS = [
    "a",
    "Hello, World!",
    "Jerboas hop; they never walk.  \t\n And   again",
    "\u00c9cole na\u00efve \u0130stanbul \u1e9e \u00df \ufb01 e\u0301",
    "\u6f22\u5b57\u3068\u304b\u306a and \ud55c\uad6d\uc5b4",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 zero\u200bwidth \u00a0nbsp \ufeffbom",
    "x" * 101 + " " + "y" * 100,
    "control \x00\x01\x7f\ufffd chars \u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "don't_stop-me: 3.14, 1,000 & <b>bold</b> https://example.org/?q=1#x",
    "\ud0a4\u0300\u0301 \u0915\u094d\u0937 \u0e01\u0e33",
    "word " * 400,
]


def vectors(model: BertModel, ids: list[int]) -> dict[str, np.ndarray]:
    """The vectors of a text in the three poolings."""
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
    found = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}
    return {name: torch.nn.functional.normalize(v, dim=0).numpy() for name, v in found.items()}


def tiny_tokenizer() -> Tokenizer:
    """A small WordPiece tokenizer with the same parts as BERT's."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + ["\u00df", "\u6f22"]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    pieces += ["hello", "wor", "##ld", "##ing", "jer", "##bo", "##as", "again", "ecole"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(pieces[:5])
    return tokenizer


def tiny(name: str, *, old: bool, files: dict[str, Any]) -> None:
    """Write a checkpoint and what transformers computes with it. `old`: tensor names as in BERT's first files."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=60, num_hidden_layers=3, num_attention_heads=5,
        intermediate_size=112, max_position_embeddings=80, layer_norm_eps=1e-12, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(len(name))
    model = BertModel(config).eval()
    for key, value in model.named_parameters():
        wide = (
            0.6 if "embeddings" in key else 2.5 / value.shape[-1] ** 0.5 if value.dim() > 1 else 0.3
        )
        value.data = torch.randn_like(value) * wide + (1.0 if "LayerNorm.weight" in key else 0.0)
    tensors = {}
    for key, value in model.state_dict().items():
        if old:
            key = "bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
        tensors[key] = value.contiguous()
    if old:
        tensors["bert.embeddings.position_ids"] = torch.arange(80)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({**config.to_diff_dict(), "model_type": "bert"}, indent=1)
    )
    golden: dict[str, Any] = {}
    rng = np.random.default_rng(7)
    for n in LENGTHS:
        ids = rng.integers(5, config.vocab_size, n).tolist()
        golden[f"ids_{n}"] = np.array(ids)
        golden |= {f"{kind}_{n}": v for kind, v in vectors(model, ids).items()}
    golden["texts"] = json.dumps([[text, tokenizer.encode(text).ids] for text in TEXTS])
    golden["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(folder / "embedding.npz", **golden)
    tokenizer.enable_truncation(16)  # published files have these settings, which nobody may follow
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 512})
    )
    for path, value in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(value, indent=1))


def real(folder: Path) -> None:
    """Ids and vectors from the real model, for texts cut to 256 tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    found = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        found.append(
            {
                "text": text,
                "ids": ids,
                "vector": [round(float(v), 7) for v in vectors(model, ids)["mean"]],
            }
        )
    (HERE / "real_embeddings.json").write_text(
        json.dumps(
            {"model": "all-MiniLM-L6-v2", "transformers": transformers.__version__, "texts": found}
        )
        + "\n"
    )


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]

if __name__ == "__main__":
    tiny("bert-f32", old=False, files={})
    tiny(
        "bert-old-names",
        old=True,
        files={
            "modules.json": MODULES,
            "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "sentence_bert_config.json": {"max_seq_length": 20, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None,
            },
        },
    )  # fmt: skip
    for given in sys.argv[1:2]:
        real(Path(given))
