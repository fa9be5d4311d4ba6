"""What a decoder is asked when it judges a document: Qwen3-Reranker's prompt, answered by "yes" or "no".

Source: the model card of Qwen/Qwen3-Reranker-0.6B (Zhang et al. 2025, arXiv:2506.05176).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from py_engine.errors import InputError, ModelError
from py_engine.inputs.tokenizer import Tokenizer

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Judge:
    """The prompt's fixed parts as ids, and the ids of the two answers."""

    before: Sequence[int]
    after: Sequence[int]
    yes: int
    no: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Judge | None:
        """None where the tokenizer knows no ChatML, or no single tokens for the answers."""
        if not {"<|im_start|>", "<|im_end|>"} <= tokenizer.control.keys():
            return None
        try:
            answers = [tokenizer.encode(word) for word in ("yes", "no")]
            before, after = (tokenizer.encode(text, control=True) for text in (_BEFORE, _AFTER))
        except (InputError, ModelError):  # it cannot write the prompt
            return None
        if [len(ids) for ids in answers] != [1, 1]:
            return None
        return cls(before, after, answers[0][0], answers[1][0])

    def question(self, instruction: str, query: str, document: str) -> str:
        """What stands between the fixed parts: plain text, whatever it holds. It becomes ids as one piece, since a
        space before a document belongs to its first token."""
        return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
