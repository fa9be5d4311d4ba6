"""A newer version of the page: it waits until the user agrees."""

import asyncio

from pyscript.js_modules import updates

from app.hints import hint, withdraw

NAME = "update"


def watch():
    """Keep the page for use without a network, and report a newer version."""
    asyncio.create_task(_watch())


async def _watch():
    await updates.watch(_found)


def _found():
    hint(
        NAME,
        "A new version is ready",
        "It starts when this page is reloaded. Your chats stay; a loaded model loads again.",
        (("Reload", "update", "primary"), ("Later", "update-later", "plain")),
    )


def accept(button=None):
    """Reload with the newest version."""
    updates.accept()


def later(button=None):
    """Close the notice until the next visit."""
    withdraw(NAME)
