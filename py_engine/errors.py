"""Every error that the engine raises on purpose.

    EngineError
    ├── HostError           the GPU or its driver refused something (label of the buffer or kernel inside)
    │   ├── NoAdapterError  no WebGPU adapter: says what was looked for and what to do
    │   ├── OutOfMemoryError
    │   │   └── MemoryBudgetError  a load was refused before it allocated anything (numbers inside)
    │   ├── DeviceLostError
    │   └── SelfCheckError  the GPU computes wrongly; a load was refused
    ├── ModelError          config.json, weights or tokenizer of a model are wrong, or unsupported
    │   └── FormatError     a file breaks its own format (safetensors, GGUF, JSON)
    ├── HubError            the network or the hub said no (status, address, what to do)
    ├── StorageError        the local store is locked or broken
    │   └── StorageFullError  no room: the disk is full, or the browser's quota is used up
    ├── SessionError        a saved session is not there, damaged, or of another model, device or version
    ├── InputError          the caller's arguments: prompt, messages, sampling settings, template
    │   ├── ContextError    prompt and answer do not fit the context (numbers inside)
    │   └── DocumentError   a document cannot be read: encrypted, too large, no text in it
    ├── ClosedError         the engine or device was closed, or unloaded to make room for another model
    └── AbortError          the caller stopped it

A message says what happened, to what, and what to do about it.
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of all errors above. `type` is the class's name, as the worker protocol and `--json` print it."""

    @property
    def type(self) -> str:
        """The class's name."""
        return type(self).__name__


class HostError(EngineError):
    """The GPU or its driver refused an operation; the message names the buffer or kernel."""


class NoAdapterError(HostError):
    """No WebGPU adapter answered. There is no CPU fallback."""


class OutOfMemoryError(HostError):
    """The device could not allocate a buffer."""


class MemoryBudgetError(OutOfMemoryError):
    """A load would take more than the caller allows; nothing was allocated. `needed` and `budget` are bytes."""

    def __init__(self, message: str, needed: int, budget: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.budget = budget


class DeviceLostError(HostError):
    """The GPU device went away (driver reset, tab suspended, memory pressure). `reason` is the host's."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class SelfCheckError(HostError):
    """The GPU gave wrong numbers for a small known input, in the plainest form of a kernel, too."""


class ModelError(EngineError):
    """A model's config, weights or tokenizer are wrong or not supported."""


class FormatError(ModelError):
    """A file breaks its own format: truncated, overlapping, oversized or lying about itself."""


class HubError(EngineError):
    """A request to the hub, or to a folder standing in for it, failed for good. `attempts`: how many are worth while
    where waiting does not help (a name that does not resolve); None: as many as otherwise."""

    def __init__(
        self, message: str, status: int | None = None, attempts: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.attempts = attempts


class StorageError(EngineError):
    """The local store could not keep or give back bytes."""


class StorageFullError(StorageError):
    """The disk is full or the quota is used up. What was stored before is as it was."""


class SessionError(EngineError):
    """A saved session cannot be restored: it is not there, damaged, or belongs to something else."""


class InputError(EngineError):
    """The caller's arguments are wrong."""


class ContextError(InputError):
    """Prompt and requested answer exceed the context; `prompt_tokens` and `context` hold the numbers."""

    def __init__(self, message: str, prompt_tokens: int, context: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.context = context


class DocumentError(InputError):
    """A document cannot be read: it is too large, encrypted, damaged, or holds no text. The message says what to do."""


class ClosedError(EngineError):
    """The engine or device was closed, or unloaded to make room; the message says which, and what to do."""


class AbortError(EngineError):
    """The caller stopped the operation."""
