"""device_storage.py in CPython: the disk that holds the Hugging Face cache. Nothing is thrown away there, and there is
nothing to install."""

from __future__ import annotations

import shutil
from typing import Any

from py_engine.host.store_native import default_root

MB = 1_000_000


async def get_storage_status() -> dict[str, Any]:
    """{quotaMB, usageMB, availableMB, persisted, installed, ios}: whole numbers of 10^6 bytes.

    In a browser None where it tells none; here the whole disk and all that lies on it.
    """
    folder = default_root("models")[0]
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    return {
        "quotaMB": (disk.used + disk.free) // MB,  # what an ordinary user may fill
        "usageMB": disk.used // MB,
        "availableMB": disk.free // MB,
        "persisted": True,
        "installed": True,
        "ios": False,
    }


async def fits(size_mb: float) -> dict[str, Any]:
    """`can_cache_model` of device_storage.py, for a size that was checked."""
    available = (await get_storage_status())["availableMB"]
    return {"fits": size_mb <= available, "availableMB": available, "recommendInstall": False}


async def request_persistent_storage() -> bool:
    """Whether what is kept is safe from being thrown away by the browser itself. A page asks for that
    (app/storage.py does); a worker, where browsers offer no persist(), can only look."""
    return True


def get_install_guidance() -> dict[str, Any]:
    """{installed, manual, steps}: how the page is installed as an app, as a list of sentences."""
    return {"installed": True, "manual": False, "steps": []}


def is_standalone() -> bool:
    """Whether this runs as an installed app."""
    return True


def is_ios() -> bool:
    """iPhone or iPad, also one that asks for desktop pages."""
    return False
