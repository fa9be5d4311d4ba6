"""Makes the tiny random rerankers of tests/goldens/rerank-*/ with what transformers and sentence-transformers compute.

Run with a Python that has torch, transformers, sentence-transformers, safetensors and tokenizers:

    python -m tests.goldens.make_rerankers

The engine takes no part in this. reranking.json holds `pairs`: ids, their token types and the logit in float32. For
cross-encoders `logits` has those logits under each pooling of the classifier, and `ranking` a query, documents and the
scores of sentence-transformers' CrossEncoder. For Qwen3 the logit is logit(yes) - logit(no) after the prompt of
Qwen3-Reranker's model card, put together here as the card does it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from tests.goldens.make_embeddings import tiny_tokenizer
from tests.packaged_tokenizers import QWEN3_SPLIT

HERE = Path(__file__).parent
LENGTHS = (3, 7, 64, 130, 300)
CONTEXT = 300
QUERY = "Where do jerboas sleep?"
DOCUMENTS = [
    "jerboas",
    "In burrows under the sand; they close them by day.",
    "Hello, World!",
    "hello again " * 160,  # cut
    "[SEP] <|im_end|> typed by a person",
]
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def spread(model: torch.nn.Module, seed: int) -> None:
    """Random weights under which attention matters, and logits of a few units."""
    torch.manual_seed(seed)
    for key, value in model.named_parameters():
        norm = value.dim() == 1 and "norm" in key.lower() and key.endswith("weight")
        wide = 0.6 if "embed" in key else 2.0 / value.shape[-1] ** 0.5 if value.dim() > 1 else 0.2
        value.data = torch.randn_like(value) * wide + (1.0 if norm else 0.0)


def roberta_tokenizer() -> Tokenizer:
    """The pieces of `tiny_tokenizer`, but XLM-R's special tokens around them."""
    tokenizer = tiny_tokenizer()
    vocab = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[5:]
    vocab = {
        piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *vocab, "<mask>"])
    }
    made = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return made


def qwen_tokenizer() -> Tokenizer:
    """Bytes, the words "yes" and "no", and Qwen3's split and special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, "ye", "yes", "no"]
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in ("<think>", "</think>")]
    )
    return tokenizer


def stored(name: str, model: Any, tokenizer: Tokenizer, settings: dict[str, Any]) -> Path:
    """Write the checkpoint in float32."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    model.eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def cross_encoder(
    name: str, model: Any, tokenizer: Tokenizer, settings: dict[str, Any], typed: bool
) -> None:
    """A cross-encoder: pairs of random ids of which about a third is the query, and texts."""
    spread(model, len(name))
    folder = stored(name, model, tokenizer, {**settings, "model_max_length": CONTEXT})
    pairs = []
    generator = torch.Generator().manual_seed(7)
    for n in LENGTHS:
        ids = torch.randint(5, tokenizer.get_vocab_size() - 1, (n,), generator=generator).tolist()
        types = [0] * (n // 3) + [1] * (n - n // 3) if typed else [0] * n
        pairs.append({"ids": ids, "types": types})
    logits: dict[str, list[float]] = {}
    for pooling in ("cls", "mean") if hasattr(model.config, "classifier_pooling") else ("cls",):
        model.config.classifier_pooling = pooling
        logits[pooling] = []
        for pair in pairs:
            given = {"token_type_ids": torch.tensor([pair["types"]])} if typed else {}
            with torch.no_grad():
                found = model(torch.tensor([pair["ids"]]), **given).logits
            logits[pooling].append(found.item())
    scores = CrossEncoder(str(folder), device="cpu").predict([(QUERY, d) for d in DOCUMENTS])
    ranking = {"query": QUERY, "documents": DOCUMENTS, "scores": scores.tolist()}
    golden = {"pairs": pairs, "logits": logits, "ranking": ranking}
    golden["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    (folder / "reranking.json").write_text(json.dumps(golden) + "\n")
    print(name, logits, scores)


def qwen3() -> None:
    """A tiny Qwen3 asked as Qwen3-Reranker is."""
    tokenizer = qwen_tokenizer()
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, intermediate_size=72, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        )
    )  # fmt: skip
    spread(model, 3)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML,
    }  # fmt: skip
    folder = stored("rerank-qwen3", model, tokenizer, settings)
    before, after = tokenizer.encode(BEFORE).ids, tokenizer.encode(AFTER).ids
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    pairs = []
    for instruction in (INSTRUCTION, "Find the answer"):
        for document in DOCUMENTS[:3]:
            text = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
            ids = [*before, *tokenizer.encode(text).ids, *after]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            logit = (logits[yes] - logits[no]).item()
            pairs.append(
                {"instruction": instruction, "document": document, "ids": ids, "logit": logit}
            )
    golden = {"query": QUERY, "pairs": pairs, "transformers": transformers.__version__}
    (folder / "reranking.json").write_text(json.dumps(golden) + "\n")
    print("qwen3", [pair["logit"] for pair in pairs], [len(pair["ids"]) for pair in pairs])


def main() -> None:
    """Make all of them."""
    bert = tiny_tokenizer()
    size = {"vocab_size": bert.get_vocab_size(), "num_labels": 1}
    cross_encoder(
        "rerank-bert",
        BertForSequenceClassification(
            BertConfig(
                hidden_size=60, num_hidden_layers=2, num_attention_heads=5, intermediate_size=40,
                max_position_embeddings=CONTEXT, **size,
            )
        ),
        bert, {"tokenizer_class": "BertTokenizer"}, True,
    )  # fmt: skip
    roberta = roberta_tokenizer()
    cross_encoder(
        "rerank-xlm-roberta",
        XLMRobertaForSequenceClassification(
            XLMRobertaConfig(
                hidden_size=44, num_hidden_layers=2, num_attention_heads=11, intermediate_size=90,
                max_position_embeddings=CONTEXT + 2, type_vocab_size=1, num_labels=1,
                vocab_size=roberta.get_vocab_size(), layer_norm_eps=1e-5,
                pad_token_id=1, bos_token_id=0, eos_token_id=2,
            )
        ),
        roberta,
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>",
            "model_input_names": ["input_ids", "attention_mask"],
        },
        False,
    )  # fmt: skip
    cross_encoder(
        "rerank-modernbert",
        ModernBertForSequenceClassification(
            ModernBertConfig(
                hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=60, local_attention=16,
                max_position_embeddings=CONTEXT, pad_token_id=0, cls_token_id=2, sep_token_id=3,
                bos_token_id=2, eos_token_id=3, classifier_pooling="mean", **size,
            )
        ),
        bert,
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]",
            "cls_token": "[CLS]", "sep_token": "[SEP]", "model_input_names": ["input_ids", "attention_mask"],
        },
        False,
    )  # fmt: skip
    qwen3()


if __name__ == "__main__":
    main()
