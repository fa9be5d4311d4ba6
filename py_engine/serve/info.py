"""What a model in use says of itself."""

from __future__ import annotations

from typing import Any

from py_engine.generate.decoder import Decoder
from py_engine.host.gpu import Gpu
from py_engine.tasks import tasks_of
from py_engine.tasks.loaded import Loaded


def model_info(loaded: Loaded, gpu: Gpu, status: str) -> dict[str, Any]:
    """The value of Engine.info(): what all models have, then what models that generate text have."""
    info = {
        "status": status,
        "model": loaded.name,
        "family": loaded.family,
        "tasks": tasks_of(loaded),
        "dtype": loaded.dtype,
        "weights_as": loaded.form,
        "memory": {
            "weights_bytes": loaded.weights_bytes,
            **loaded.runtime.memory(),
            **(loaded.vision.memory() if loaded.vision else {}),
            "peak_transient_bytes": loaded.peak_transient_bytes,
        },
        "plan": {
            "pipelines": gpu.counters.pipelines_created,
            "buffers": gpu.counters.live_buffers,
        },
        "vision": {"loaded": loaded.vision.here} if loaded.vision else None,
        "load_s": loaded.load_s,
        "kept": loaded.kept,
        "self_check": loaded.checked and loaded.checked.summary(),
        "adapter": vars(gpu.info),
        "features": sorted(gpu.features),
    }
    if isinstance(loaded.runtime, Decoder):
        _add_text(info, loaded, loaded.runtime)
    return info


def _add_text(info: dict[str, Any], loaded: Loaded, decoder: Decoder) -> None:
    text = loaded.text
    info["context"] = {
        "used": len(decoder.prefix.ids),
        "class": decoder.state.cache.capacity,
        "kv": decoder.state.cache.dtype,
        "max": decoder.state.context,
    }
    info["plan"] = {
        "decode_dispatches": decoder.decode_dispatches,
        "prefill_dispatches": decoder.prefill_dispatches,
        **info["plan"],
    }
    info["tuning"] = decoder.tuning_digest
    info["submit"] = {**vars(decoder.strategy)}
    info["chat"] = text.template.available
    info["thinking"] = {"marks": text.markup.thinks, "switch": text.template.thinking_switch}
    info["tool_format"] = text.markup.calls.name if text.markup.calls else None
    info["traffic"] = {
        "upload_bytes_per_token": decoder.upload_bytes_per_token,
        "readback_bytes_per_token": decoder.readback_bytes_per_token,
    }
