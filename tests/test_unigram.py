"""Texts of many languages through the real Unigram vocabulary of XLM-RoBERTa (multilingual-e5, bge-m3): ids equal those
of the sentencepiece library (goldens/make_unigram.py) and of the tokenizers library."""

from __future__ import annotations

import asyncio
import json

import pytest
import tokenizers

from py_engine.inputs.tokenizer import Tokenizer
from tests import reference
from tests.corpus import SCRIPTS, texts
from tests.packaged_tokenizers import tokenizer_json

# Where the tokenizers library, which transformers uses, differs from sentencepiece: syllables out of single letters,
# and a line end that Unicode calls white space.
FAST_DIFFERS = {"Korean", "White space"}


@pytest.mark.real_model
def test_ids_of_many_languages() -> None:
    path = tokenizer_json("unigram")
    fast = tokenizers.Tokenizer.from_file(str(path))
    tokenizer = asyncio.run(
        Tokenizer.load(path.read_bytes(), model_config={"vocab_size": 250037, "pad_token_id": 1})
    )
    wanted = json.loads((reference.GOLDENS / "unigram_ids.json").read_text())["ids"]
    control = set(tokenizer.control)
    assert control == {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    for name, text in SCRIPTS.items():
        ids = tokenizer.encode(text, add_special_tokens=True)
        typed = any(token in text for token in control)
        assert typed or ids == fast.encode(text).ids, name
        assert ids == wanted[name] or name in FAST_DIFFERS or typed, name
    for text in texts(400):
        ids = tokenizer.encode(text, add_special_tokens=True)
        if any(token in text for token in control):  # a control token that is typed is text
            assert not {0, 1, 2, 250001} & set(ids[1:-1])
        else:
            assert ids == fast.encode(text).ids, text
    assert 3 in tokenizer.encode(SCRIPTS["Cuneiform"]), "what no piece has is unknown, not refused"
    assert tokenizer.decode(tokenizer.encode(SCRIPTS["German"])) == SCRIPTS["German"]
    tokenizer.close()
