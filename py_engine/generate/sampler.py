"""The buffers of the sampling kernels, and their part of the traces."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Literal

from py_engine.generate.sampling import Sampling
from py_engine.graph.trace import Tensor
from py_engine.host.gpu import Binding, Buffer, Gpu
from py_engine.ops.sample import (
    HISTOGRAM_WORDS,
    IN_PROMPT,
    SAMPLING_BYTES,
    clear_counts,
    mark_prompt,
    pack_sampling,
    sample_greedy,
    sample_random,
)
from py_engine.ops.step import Pass


class Sampler:
    """Buffers for the logits [V], the settings, and the history of tokens that penalties need."""

    def __init__(self, gpu: Gpu, vocab_size: int, ids: Tensor) -> None:
        """`ids` (State.ids): where a sampled token is written, and where `mark` reads the prompt."""
        self._gpu = gpu
        self._ids = ids
        self._buffers: list[Buffer] = []
        try:
            self.logits = self._make("logits", vocab_size, "f32")
            self._settings = self._make("sampling", SAMPLING_BYTES // 4, "u32")
            self._counts = self._make("token counts", vocab_size, "u32")
            self._histogram = self._make("sample histogram", HISTOGRAM_WORDS, "u32")
        except BaseException:
            self.release()
            raise

    @property
    def nbytes(self) -> int:
        """GPU bytes."""
        return sum(b.nbytes for b in self._buffers)

    def greedy(self, trace: Pass) -> None:
        """Trace the choice of the best token."""
        sample_greedy(trace, self._ids, self.logits, self._settings, self._counts)

    def sampled(self, trace: Pass) -> None:
        """Trace the random choice of a token."""
        sample_random(trace, self._ids, self.logits, self._settings, self._counts, self._histogram)

    def forget(self, trace: Pass) -> None:
        """Trace a pass that clears the history."""
        clear_counts(trace, self._counts)

    def mark(self, trace: Pass) -> None:
        """Trace a pass that enters the valid rows of the ids into the history, as prompt."""
        mark_prompt(trace, self._ids, self._counts)

    def write(self, sampling: Sampling) -> None:
        """Upload the settings of the next generation."""
        data = pack_sampling(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed or 0,
            stop_ids=sampling.stop_ids,
        )
        self._gpu.write(self._settings.buffer, 0, data)

    def remember(self, prompt: Sequence[int], answered: Sequence[int]) -> None:
        """Upload the history of a prompt and its answer so far, as `mark` and the sampling kernels would make it."""
        words = array("I", bytes(self._counts.nbytes))
        for token in prompt:
            if token >= 0:  # a negative id is a row of an image or a sound
                words[token] = IN_PROMPT
        for token in answered:
            words[token] += 1
        self._gpu.write(self._counts.buffer, 0, words.tobytes())

    def release(self) -> None:
        """Free the buffers."""
        for buffer in self._buffers:
            self._gpu.destroy_buffer(buffer)
        self._buffers.clear()

    def _make(self, name: str, n: int, dtype: Literal["f32", "u32"]) -> Tensor:
        buffer = self._gpu.create_buffer(name, 4 * n)
        self._buffers.append(buffer)
        return Tensor(name, (n,), dtype, Binding(buffer))
