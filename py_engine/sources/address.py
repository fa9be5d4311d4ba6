"""Where a model's address leads: a folder, files picked in the page, or `org/name[@revision]` on the hub."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from py_engine.errors import HubError
from py_engine.host.io import Io
from py_engine.sources.hub import HubRepository
from py_engine.sources.repository import FolderRepository, Repository

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@[\w./+-]+)?", re.ASCII)

OpenHub = Callable[[str, str, Io], Awaitable[Repository]]  # (org/name, revision, io)


async def open_repository(address: str, io: Io, open_hub: OpenHub | None = None) -> Repository:
    """The repository at `address`: a folder's path, `files:NAME` (picked in the page), `org/name` or
    `org/name@revision` on the hub. A folder that exists wins over a hub id.

    `open_hub` opens a repository of the hub; None: HubRepository.open, which stores nothing on this device.
    Raises HubError.
    """
    if not address or "\0" in address:
        raise HubError("The model's address is empty or holds a NUL; give a folder or a hub id.")
    picked = address.startswith("files:")
    path = address.removeprefix("files:")
    if picked or not HUB_ID.fullmatch(address) or await _is_folder(path, io):
        try:
            names = await io.list_files(path)
        except FileNotFoundError as error:
            raise HubError(
                f"{address}: there is no such folder, and it is not a hub id either"
                " (org/name or org/name@revision).",
                404,
            ) from error
        return FolderRepository(address, path, names, io)
    name, _, revision = address.partition("@")
    return await (open_hub or HubRepository.open)(name, revision or "main", io)


async def _is_folder(path: str, io: Io) -> bool:
    """Whether this is a folder with files of its own."""
    try:
        return any("/" not in name for name in await io.list_files(path))
    except FileNotFoundError:
        return False
