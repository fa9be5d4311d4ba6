"""Which model is loaded: the one that the user chose, in picker.py's form or by opening a folder, or that of the last
visit. Loading itself is loading.py's."""

import asyncio

from app import install, storage
from app.dom import find, show
from app.loading import problem


class ModelChoice:
    """Starts a load from a choice. A model is a dict as in /config.json."""

    def __init__(self, page):
        self._page = page
        self._unasked = True  # whether at_hand()'s model may load: once, and not after a cancel

    def place_picker(self, event=None):
        """Move the form to the empty page, unless the dialog has it."""
        if not self._page.gpu.title:
            self._page.picker.place("hero-picker")

    def open(self, button=None):
        """Open the dialog to choose a model."""
        gpu = self._page.gpu
        if gpu.title:
            problem(gpu.title, gpu.text)
            return
        self._page.picker.place("dialog-picker")
        if not find("models").open:
            find("models").showModal()

    def choose(self, model):
        """Load this model; on phones and tablets after advice to install the page."""
        close_dialog()
        self._page.composer.focus()
        if "files" in model:
            self._load(model)
        else:
            size = model.get("size")
            install.before_download(size and size / 1e6, lambda: self._download(model))

    def _download(self, model):
        """Load from the hub. The browser is asked not to delete the stored model by itself."""
        asyncio.create_task(storage.request_persistent_storage())
        self._load(model)

    def _load(self, model, commit=""):
        """Load a model in place of the current one: the newest on its hub, or a commit that is stored here."""
        page = self._page
        self._unasked = False
        page.conversation.stop()
        page.conversation.used = None
        page.loading.start(model, commit)

    # ---- loading without a choice, and again

    def at_hand(self):
        """Return the last visit's model if it loads when the user begins to type: all of it is stored here, so
        nothing has to be fetched. None without one."""
        page = self._page
        blocked = page.events.smaller or page.gpu.title
        if not self._unasked or page.loading.state != "none" or blocked:
            return None
        model = page.picker.last()
        return model if model and model["id"] in page.stored_models.whole else None

    def load_at_hand(self):
        """The user has begun to type: load the model at hand."""
        model = self.at_hand()
        if model:
            self._load(model, self._page.stored_models.whole[model["id"]])

    def reload(self, button=None):
        """Load the same model again, in a fresh engine if the old one crashed; or the one that failed to load while
        another one is in use."""
        page = self._page
        show(find("notice"), False)
        model = page.loading.failed or page.loading.model
        if model is None:
            self.open()
            return
        page.conversation.stop()
        if not page.loading.failed:
            page.client.restart()
        page.loading.start(model)

    def load_smaller(self, button=None):
        """Load the model that was too large, with a smaller setting."""
        page = self._page
        smaller = page.events.smaller
        show(find("notice"), False)
        page.settings.be_careful(smaller.context, smaller.group)
        model = page.picker.find(smaller.model)
        if model:
            self.choose(model)
        else:
            self.open()

    # ---- folders

    def take_folder(self, read):
        """Load a folder that was picked or dropped; `read(folders)` returns its name and files."""
        gpu = self._page.gpu
        if gpu.title:
            problem(gpu.title, gpu.text)
            return
        from app import folders  # imported here, since few visits need it

        try:
            name, files = read(folders)
        except folders.FolderError as error:
            close_dialog()
            problem("Not a model folder", str(error), (("Open another folder", "pick-folder"),))
            return
        self.choose(self._page.picker.add_folder(name, files))


def close_dialog():
    """Close the dialog to choose a model, if it is open."""
    if find("models").open:
        find("models").close()
