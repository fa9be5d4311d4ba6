"""The empty chat: what this page is, what to do first, and a few examples."""

from app.dom import button, clear, find, show

STARTERS = (
    "Explain how a bicycle stays upright",
    "Write a Python function that reverses the words of a sentence",
    "Give me three names for a small desert animal",
)
CONTINUATIONS = (
    "Once upon a time in the desert,",
    "The three laws of motion are",
    "def fibonacci(n):",
)


def draw(state, name, base, gpu, at_hand):
    """Draw it. `state` and `name` are those of the model; a `base` model continues texts. `at_hand`: the model that
    loads by itself."""
    title = "A language model on your own GPU"
    if gpu.title:
        text = "This page cannot answer on this device. Your chats can still be read."
    elif state == "loading":
        text = "You can write your first message while it loads."
    elif state == "none" and at_hand:
        text = (
            at_hand
            + " is kept on this device and loads when you begin to write. Or choose another."
        )
    elif state == "none":
        text = "Choose a model. It loads only when you ask for it, and then answers on this device."
    else:
        title = name + " is ready"
        text = "Ask something. The answer is computed on this device."
        if base:
            text = "A base model: it continues your text rather than answering it."
    find("hero-title").textContent = title
    find("hero-text").textContent = text
    show(find("hero-picker"), state == "none")
    starters = find("starters")
    show(starters, state == "ready")
    clear(starters)
    if state == "ready":
        for words in CONTINUATIONS if base else STARTERS:
            starters.append(button(words, "starter", ""))
