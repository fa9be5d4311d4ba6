"""Makes the tiny random text encoders of tests/goldens/encoder-*/ with the vectors that transformers and
sentence-transformers compute with them in float32.

Run with a Python that has torch, transformers, sentence-transformers, safetensors and mlx:

    python -m tests.goldens.make_encoders [NAME...]

The engine takes no part in this. encoder.npz holds, for texts of each length, `ids_N` and the unit vectors `mean_N`,
`first_N`, `last_N` of the last hidden states, after the Dense modules; and `texts`: what sentence-transformers makes of
texts for some tasks (ids with the prompt, the vector, the vector cut to `cut` numbers). A changed window, base or order
must change the vectors (`told`), else the checkpoint is refused.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
LENGTHS = (1, 7, 130, 600)
VOCAB = 120
TEXTS = ["Hello again", "jerboas hop; they never walk", "\u00c9cole \u6f22 na\u00efve"]
CUT = 8
GROUP = 32  # of quantised weights


@dataclass(frozen=True)
class Encoder:
    """A checkpoint: settings of its config, the modules behind the network, prompts. `told`: changes of the config that
    must show. `packed`: the matrices are quantised as MLX does it, in 4 bits. `bf16`: the form of all weights; they are
    rounded to it before."""

    name: str
    config: Mapping[str, Any]
    pooling: str = "mean"
    dense: tuple[int, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    told: tuple[Mapping[str, Any], ...] = ()
    rename: Callable[[str], str] = lambda name: name
    packed: bool = False
    bf16: bool = True


XLM_ROBERTA = {
    "model_type": "xlm-roberta", "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 56, "max_position_embeddings": 640, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
MODERNBERT = {
    "model_type": "modernbert", "hidden_size": 60, "num_hidden_layers": 4, "num_attention_heads": 5,
    "intermediate_size": 44, "max_position_embeddings": 1024, "local_attention": 24, "global_attn_every_n_layers": 3,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma3_text", "hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 3,
    "num_key_value_heads": 1, "head_dim": 28, "intermediate_size": 72, "max_position_embeddings": 1024,
    "sliding_window": 20, "sliding_window_pattern": 3, "query_pre_attn_scalar": 20, "use_bidirectional_attention": True,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 68, "max_position_embeddings": 1024,
    "rope_theta": 1e6, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
GEMMA2 = {
    "model_type": "embedding_gemma2_text", "hidden_size": 44, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "global_head_dim": 20, "num_global_key_value_heads": 1,
    "intermediate_size": 60, "max_position_embeddings": 1024, "sliding_window": 9, "sliding_window_pattern": 2,
    "hidden_size_per_layer_input": 16, "embedding_dim": 52, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
GEMMA_PROMPTS = {"query": "task: search | query: ", "document": "title: none | text: "}
ENCODERS = [
    Encoder(
        "encoder-xlm-roberta", XLM_ROBERTA, "cls", prompts={"query": "query: ", "passage": "passage: "},
        told=({"pad_token_id": 0},), bf16=False,
    ),
    Encoder(
        "encoder-modernbert", MODERNBERT, "cls",
        told=({"local_attention": 26}, {"local_attention": 22}, {"global_attn_every_n_layers": 2}),
    ),
    Encoder(
        "encoder-gemma3", GEMMA, dense=(76, 40), prompts=GEMMA_PROMPTS,
        told=({"sliding_window": 22}, {"sliding_window": 18}, {"query_pre_attn_scalar": 28},
              {"use_bidirectional_attention": False}),
    ),
    Encoder(
        "encoder-gemma3-mlx4-g32", {**GEMMA, "hidden_size": 96, "head_dim": 32, "intermediate_size": 160},
        prompts=GEMMA_PROMPTS, packed=True, bf16=False, rename=lambda name: f"model.{name}",
    ),
    Encoder(
        "encoder-qwen3", QWEN3, "lasttoken", prompts={"query": "Instruct: find\nQuery:", "document": ""},
        told=({"rope_theta": 5e5},),
    ),
    Encoder(
        "encoder-embedding-gemma2", GEMMA2, prompts=GEMMA_PROMPTS,
        told=({"sliding_window": 10}, {"sliding_window": 8}),
    ),
]  # fmt: skip


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A small Unigram tokenizer of the parts that XLM-RoBERTa's and Gemma's have."""
    letters = [chr(c) for c in range(97, 123)] + list(";:|.,HEJ\u00c9\u00ef\u6f22I")
    pieces = [
        "\u2581",
        "\u2581a",
        "\u2581hop",
        "\u2581the",
        "ello",
        "gain",
        "er",
        "bo",
        "as",
        "y",
        "never",
        "wal",
    ]
    pieces += ["text", "task", "query", "\u2581none", "title", "search", "\u2581\u2581"]
    vocab = [(special, 0.0) for special in ("<s>", "<pad>", "</s>", "<unk>")]
    found = dict.fromkeys([*pieces, *letters])
    vocab += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(found)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    assert tokenizer.get_vocab_size() <= VOCAB
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        model_max_length=1024,
    )  # fmt: skip


def network(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor] | None = None) -> Any:
    """A model of this config, with these weights, or random ones that make attention matter."""
    given = dict(config)
    made = AutoModel.from_config(
        AutoConfig.for_model(given.pop("model_type"), vocab_size=VOCAB, **given),
        attn_implementation="eager",
    ).eval()
    for key, value in made.named_parameters():
        if weights is not None:
            break
        norm, gemma = "norm" in key.lower(), config["model_type"] == "gemma3_text"
        wide = (
            0.3
            if value.dim() == 1
            else 0.6
            if "embeddings" in key
            else 2.0 / value.shape[-1] ** 0.5
        )
        middle = 1.0 if norm and key.endswith("weight") and not gemma else 0.0
        value.data = (torch.randn_like(value) * wide + middle).bfloat16().float()
    for key, value in made.named_buffers():
        if weights is None and "layer_scalar" in key:
            value.data = (torch.rand_like(value) + 0.5).bfloat16().float()
    if weights is not None:
        made.load_state_dict(weights)
    return made


def vectors(
    model: Any, ids: list[int], dense: Sequence[torch.Tensor] = ()
) -> dict[str, np.ndarray]:
    """The vectors of a text in the three poolings, multiplied by the matrices of Dense modules."""
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    for matrix in dense:
        hidden = hidden @ matrix.T
    found = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}
    return {name: torch.nn.functional.normalize(v, dim=0).numpy() for name, v in found.items()}


def pack(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors as MLX quantises them, and as they are read again."""
    stored, read = {}, {}
    for name, value in tensors.items():
        if value.dim() < 2:
            stored[name] = read[name] = value
            continue
        packed, scales, biases = mx.quantize(mx.array(value.numpy()), group_size=GROUP, bits=4)
        path = name.removesuffix("weight")
        again = mx.dequantize(packed, scales, biases, group_size=GROUP, bits=4)
        read[name] = torch.tensor(np.array(again))
        stored[name] = torch.tensor(np.array(packed).view(np.int32)).view(torch.uint32)
        stored[f"{path}scales"], stored[f"{path}biases"] = (
            torch.tensor(np.array(side)) for side in (scales, biases)
        )
    return stored, read


def make(encoder: Encoder) -> None:
    """Write a checkpoint and what transformers and sentence-transformers compute with it."""
    folder = HERE / encoder.name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(len(encoder.name))
    model = network(encoder.config)
    stored = {key: value.contiguous() for key, value in model.state_dict().items()}
    if encoder.packed:
        stored, read = pack(stored)
        model = network(encoder.config, read)
    width = vectors(model, [5])["mean"].size
    sizes = (width, *encoder.dense)
    dense = [torch.randn(out, given) / given**0.5 for given, out in itertools.pairwise(sizes)]
    golden: dict[str, Any] = {}
    rng = np.random.default_rng(7)
    for n in LENGTHS:
        ids = rng.integers(4, VOCAB, n).tolist()
        golden[f"ids_{n}"] = np.array(ids)
        golden |= {f"{kind}_{n}": v for kind, v in vectors(model, ids, dense).items()}
    for change in encoder.told:
        changed = network({**encoder.config, **change}, model.state_dict())
        other = vectors(changed, golden["ids_130"].tolist(), dense)
        told = float(((other["mean"] - golden["mean_130"]) ** 2).sum())
        print(encoder.name, change, f"changes the mean by {told:.1e}")
        assert told > 1e-5, "this checkpoint would hide a mistake"

    whole = HERE / f"{encoder.name}.tmp"  # as transformers writes it
    model.save_pretrained(whole)
    tiny_tokenizer().save_pretrained(whole)
    body = Transformer(str(whole), max_seq_length=512)
    layers: list[Any] = [body, Pooling(width, pooling_mode=encoder.pooling)]
    for matrix in dense:
        out, given = matrix.shape
        layers.append(Dense(given, out, bias=False, activation_function=torch.nn.Identity()))
        layers[-1].linear.weight.data = matrix
    full = SentenceTransformer(modules=[*layers, Normalize()], prompts=dict(encoder.prompts))
    full.save(str(folder), create_model_card=False)
    shutil.rmtree(whole)
    found = []
    for task in (None, *encoder.prompts):
        prompt = encoder.prompts.get(task or "", "")
        for text in TEXTS:
            found.append(
                {
                    "text": text, "task": task, "ids": full.tokenizer(prompt + text)["input_ids"],
                    "vector": numbers(full.encode(text, prompt_name=task)),
                    "cut": numbers(full.encode(text, prompt_name=task, truncate_dim=CUT, normalize_embeddings=True)),
                }
            )  # fmt: skip
    golden["texts"] = json.dumps(found)
    golden["versions"] = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}"
    )
    if encoder.bf16:
        stored = {key: value.bfloat16() for key, value in stored.items()}
    save_file(
        {encoder.rename(key): value for key, value in stored.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    if encoder.packed:
        config = json.loads((folder / "config.json").read_text())
        config["quantization"] = {"group_size": GROUP, "bits": 4}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    np.savez_compressed(folder / "encoder.npz", **golden)
    for name in ("README.md", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)


def numbers(values: Any) -> list[float]:
    """Rounded, for JSON."""
    return [round(float(v), 7) for v in values]


if __name__ == "__main__":
    for each in ENCODERS:
        if each.name in sys.argv[1:] or not sys.argv[1:]:
            make(each)
