"""What the page asks for at its start: a GPU, and the server's list of models."""

import asyncio

from js import document, window

from app import device, storage, updates
from app.dom import button, clear, find
from app.picker import problem_card

LOOK_AGAIN_S = (5, 15, 45)  # seconds between looks for a GPU; after these the user has to ask
CONFIG_S = 1.5  # between two requests while the server fetches models
MOST_CONFIG_S = 60


async def look_for_gpu(page):
    """Ask for a GPU. With one, the engine boots (it loads no model); without one, the page shows what is missing."""
    page.gpu = gpu = await device.look()
    place = find("hero-picker")
    clear(place)
    if gpu.ok:
        page.picker.show_gpu(gpu)
        document.body.setAttribute("data-engine", "ready" if page.client.booted else "booting")
        page.client.start()
    else:
        card = problem_card(gpu.title, gpu.text)
        card.children[0].append(button("Look again", "look-for-gpu"))
        place.append(card)
        document.body.setAttribute("data-engine", "none")
        updates.watch()
    page.refresh()


async def begin_with_gpu(page):
    """Look for a GPU. The browser of a busy machine may give one only after a while: then the engine boots after
    all."""
    await look_for_gpu(page)
    for seconds in LOOK_AGAIN_S:
        if page.gpu.ok or not page.gpu.asked:
            return
        await asyncio.sleep(seconds)
        if not page.gpu.ok and (await device.look()).ok:
            await look_for_gpu(page)


async def fetch_config(page):
    """Fetch the server's list of models, and again while the server looks for models or fetches them. Less often
    while nothing changes: the list may be a cached one, of a server that no longer runs."""
    last, pause = "", CONFIG_S
    while True:
        try:
            answer = await window.fetch("config.json")
            text = await answer.text() if answer.ok else ""
            config = storage.parse(text)
        except Exception:
            config, text = None, ""
        if not isinstance(config, dict):
            config = None
        if config or page.picker.hub is None:
            page.picker.offer(config)
            page.embedder.offer(config)
            page.refresh()
        document.body.setAttribute("data-config", "ready")
        fetching = (config or {}).get("fetching") or []
        under_way = [model for model in fetching if model["phase"] != "failed"]
        if not under_way and not (config or {}).get("looking"):
            return
        pause = min(pause * 1.5, MOST_CONFIG_S) if text == last else CONFIG_S
        last = text
        await asyncio.sleep(pause)
