"""device_storage.py in CPython: about the disk that holds the Hugging Face cache. Nothing there is deleted by itself,
and there is nothing to install."""

from __future__ import annotations

import shutil
from typing import Any

from py_engine.host.store_native import default_root

MB = 1_000_000


async def get_storage_status() -> dict[str, Any]:
    """{quotaMB, usageMB, availableMB, persisted, installed, ios}: whole numbers of 10^6 bytes.

    The numbers are those of the whole disk. A browser gives None where it does not say.
    """
    folder = default_root("models")[0]
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    return {
        "quotaMB": (disk.used + disk.free)
        // MB,  # the part of the disk that ordinary users may fill
        "usageMB": disk.used // MB,
        "availableMB": disk.free // MB,
        "persisted": True,
        "installed": True,
        "ios": False,
    }


async def fits(size_mb: float) -> dict[str, Any]:
    """What `can_cache_model` of device_storage.py gives, for a size that is valid."""
    available = (await get_storage_status())["availableMB"]
    return {"fits": size_mb <= available, "availableMB": available, "recommendInstall": False}


async def request_persistent_storage() -> bool:
    """Whether the browser has promised not to delete what is kept. A page can ask for that (app/storage.py does); a
    worker has no persist() and can only look."""
    return True


def get_install_guidance() -> dict[str, Any]:
    """{installed, manual, steps}: how to install the page as an app, as a list of sentences."""
    return {"installed": True, "manual": False, "steps": []}


def is_standalone() -> bool:
    """Whether this runs as an installed app."""
    return True


def is_ios() -> bool:
    """Whether this is an iPhone or iPad, also one that asks for desktop pages."""
    return False
