"""What this device can do, as far as a browser tells: the GPU, the memory, keeping the screen on."""

import asyncio

import js

from app.clock import sleep_ms
from app.dom import field, numbers
from app.storage import is_handheld

GB = 1e9
OVERHEAD = 1.15  # factor on the weights' size, for activations and repacking
STATE = 0.15 * GB  # KV cache of a few thousand tokens, buffers, the engine itself
HANDHELD_BUDGET = 1.2 * GB  # the engine's own value, from py_engine/host/profile.py
ADAPTER_PATIENCE_MS = 2000  # a freshly started Chromium answers null at first


class Gpu:
    """`ok`, and either `name` and `software`, or `title` and `text` that explain what is missing."""

    def __init__(self):
        self.ok = False
        self.asked = False  # WebGPU exists but gave no GPU; it may give one later
        self.name = self.title = self.text = ""
        self.software = False


async def look():
    """Ask the browser for a GPU, without keeping it."""
    gpu = Gpu()
    api = field(js.navigator, "gpu")
    if api is None:
        if not js.isSecureContext:
            gpu.title = "This address is not secure"
            gpu.text = (
                "Browsers offer WebGPU only over https, or on localhost. "
                "Open this page at such an address."
            )
        else:
            gpu.title = "This browser has no WebGPU"
            gpu.text = (
                "The model runs on your GPU by WebGPU, which this browser does not offer or has "
                "switched off. It is in Chrome and Edge from 113, Safari from 26 (macOS, iPadOS, "
                "iOS) and Firefox from 141 (Windows, newer macOS). Nothing runs on the CPU instead."
            )
        return gpu
    adapter = None
    waited = 0
    while adapter is None and waited <= ADAPTER_PATIENCE_MS:
        if waited:
            await sleep_ms(250)
        waited += 250
        try:
            adapter = await api.requestAdapter()
        except Exception:
            adapter = None
    if adapter is None:
        gpu.asked = True
        gpu.title = "No GPU answered"
        gpu.text = (
            "This browser has WebGPU, but gave no GPU for it. Switch on hardware acceleration in its "
            "settings and update the graphics driver; chrome://gpu says what is blocked in Chrome "
            "and Edge. Then try again."
        )
        return gpu
    info = field(adapter, "info")
    known = (
        numbers(info, "vendor", "architecture", "description", "isFallbackAdapter") if info else {}
    )
    words = known.get("description") or (
        known.get("vendor", "") + " " + known.get("architecture", "")
    )
    gpu.ok = True
    gpu.name = words.strip() or "GPU"
    gpu.software = bool(known.get("isFallbackAdapter")) or "swiftshader" in words.lower()
    return gpu


def size_text(nbytes):
    """Format a size in decimal units, as shops and file managers do."""
    if nbytes >= 0.995 * GB:
        return f"{nbytes / GB:.1f} GB"
    if nbytes >= 1e6:
        return f"{round(nbytes / 1e6)} MB"
    return f"{max(1, round(nbytes / 1e3))} kB"


def fit(model):
    """Tell whether a model is likely to fit: ("good", "tight", "bad" or "unknown", a sentence). Its "memory" is the GPU
    bytes that a load takes, if the server knows; else they are estimated from its size. Browsers only hint at how much
    memory there is."""
    need = model.get("memory") or model["size"] * OVERHEAD + STATE
    needs = ("needs " if model.get("memory") else "needs about ") + f"{max(0.1, need / GB):.1f} GB"
    memory = field(js.navigator, "deviceMemory")
    if is_handheld():
        most = min(HANDHELD_BUDGET, 0.5 * memory * GB) if memory else HANDHELD_BUDGET
        told = f", on phones and tablets this page takes at most {HANDHELD_BUDGET / GB:.1f} GB"
        return _judge(need, 0.7 * most, most, needs + told)
    if memory:
        more = " or more" if memory >= 8 else ""
        has = f", this device has {memory:g} GB{more}"
        return _judge(need, 0.35 * memory * GB, 0.7 * memory * GB, needs + has)
    return "unknown", "N" + needs[1:] + "; this browser does not say how much there is"


def _judge(need, easily, at_most, why):
    if need <= easily:
        return "good", "Should fit: " + why
    if need <= at_most:
        return "tight", "May be tight: " + why
    return "bad", "Unlikely to fit: " + why


class Awake:
    """Keeps the screen on while something is running, where the browser can."""

    def __init__(self):
        self._wanted = False
        self._lock = None
        # The browser releases the lock when the tab is hidden.
        js.document.addEventListener("visibilitychange", self._shown)

    def hold(self):
        """Keep the screen on from now on."""
        self._wanted = True
        asyncio.create_task(self._ask())

    def release(self):
        """Let the screen turn off again."""
        self._wanted = False
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _shown(self, event):
        if self._wanted and js.document.visibilityState == "visible":
            asyncio.create_task(self._ask())

    async def _ask(self):
        api = field(js.navigator, "wakeLock")
        if api is None:
            return
        try:
            lock = await api.request("screen")
        except Exception:  # low battery, hidden tab
            return
        if self._wanted and self._lock is None:
            self._lock = lock
        else:
            lock.release()
