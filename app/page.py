"""The parts of the page (each explained in its file of this folder), and what is shown from several of them
together."""

import js
from js import document, window

from app import crash, device, hero, storage
from app.attachments import Attachments
from app.client import Client
from app.composer import Composer
from app.conversation import Conversation
from app.documents import Documents
from app.dom import find, show
from app.drafts import Drafts
from app.drops import Drops
from app.embedder import Embedder
from app.engine_events import EngineEvents
from app.library import Library
from app.loading import Loading, label, problem
from app.model_choice import ModelChoice
from app.picker import Picker
from app.settings import Settings
from app.sidebar import Sidebar
from app.stored import StoredModels

query = js.URLSearchParams.new(window.location.search)


def asked(name):
    """Return a parameter of the page's address, None without one."""
    return query.get(name) or None


class Page:
    """Holds the parts, for parts that need others. main.py makes the one page."""

    composer: Composer  # declared for earlier parts, which call these later
    documents: Documents
    loading: Loading
    library: Library

    def __init__(self):
        self.gpu = device.Gpu()
        self.events = events = EngineEvents(self)
        facts = {
            "JERBOA_HANDHELD": storage.is_handheld(),
            "JERBOA_INSTALLED": storage.is_standalone(),
            "JERBOA_IOS": storage.is_ios(),
        }
        self.client = Client(
            asked("runtime") or "", facts, events.booted, events.failed, events.told, events.died
        )
        self.settings = Settings(lambda text: problem("Settings", text))
        self.sidebar = Sidebar()
        self.stored_models = StoredModels(
            self.client, confirm, lambda: self.loading.name, self.refresh
        )
        self.loading = Loading(self.client, self.load_options, self.refresh, events.with_less)
        self.choice = ModelChoice(self)
        self.picker = Picker(self.choice.choose, self.choice.take_folder)
        self.embedder = Embedder(self, lambda: self.documents.draw())
        self.documents = Documents(self, lambda chat, title: self.library.begin(chat, title))
        self.conversation = Conversation(
            self.client,
            self.loading,
            self.settings,
            self.documents,
            self.refresh,
            problem,
            lambda: self.library.lost(),
        )
        self.attached = Attachments(self.loading, self._attached)
        self.drafts = Drafts(self.attached)
        self.composer = Composer(self)
        self.drops = Drops(self)
        self.library = Library(
            self.conversation,
            self.drafts,
            self.sidebar,
            confirm,
            self.refresh,
            self.documents.forget_chat,
        )

    def _attached(self):
        """The pictures of the message have changed."""
        self.composer.typed()
        self.conversation.stay_at_end()

    def load_options(self):
        """Return how a model is loaded: from the settings, else from the address."""
        options = {"dtype": asked("dtype"), "kv": asked("kv")}
        for name in ("context", "group", "passes"):
            text = asked(name) or ""
            options[name] = int(text) if text.isdigit() else None
        if self.settings.context:
            options["context"] = int(self.settings.context)
        if self.settings.group and not asked("group") and not asked("passes"):
            options["group"] = int(self.settings.group)
        options["proven"] = crash.proven() or None
        return {name: value for name, value in options.items() if value is not None}

    def refresh(self):
        """Redraw buttons, names and lines after a change."""
        loading, conversation = self.loading, self.conversation
        state = loading.state
        document.body.setAttribute("data-model", state)
        empty = not conversation.chat.messages
        nothing = "No GPU" if self.gpu.title else "Choose a model"
        find("model-name").textContent = nothing if state == "none" else label(loading.model)
        running = conversation.running is not None
        show(find("stop"), running)
        show(find("send"), not running)
        show(find("hero"), empty)
        show(find("chat-menu"), not empty)
        if empty:
            name = label(loading.model) if loading.model else ""
            kept = self.choice.at_hand()
            kept_name = label(kept) if kept else ""
            hero.draw(state, name, conversation.continues(), self.gpu, kept_name)
        if not find("models").open:
            self.choice.place_picker()
        self.draw_state()
        self._draw_context()
        self.documents.refresh()
        self.composer.refresh()
        self.sidebar.refresh(conversation.chat.id)

    def draw_state(self):
        """Draw the line under the message box."""
        find("state").textContent = self._state()

    def _state(self):
        if self.gpu.title:
            return "Chats can be read here, not continued"
        if self.loading.state == "ready":
            return "Runs on " + (self.gpu.name or "this device")
        if self.loading.state == "loading":
            return "Loading; you can write already"
        return self.client.boots or "No model is loaded"

    def _draw_context(self):
        """Show how much of the context the chat has used."""
        line = find("context")
        most = (self.loading.info.get("context") or {}).get("max")
        used = self.conversation.used
        show(line, bool(used and most))
        if used and most:
            line.textContent = f"Context {used:,} of {most:,}"
            line.className = "full" if used > 0.9 * most else ""


def confirm(text, act):
    """Ask before something that cannot be undone."""
    dialog = find("confirm")
    find("confirm-text").textContent = text

    def closed(event):
        if dialog.returnValue == "yes":
            act()

    dialog.returnValue = ""
    dialog.onclose = closed
    dialog.showModal()
