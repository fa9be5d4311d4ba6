"""Which model is loaded: the user chose it, in picker.py's form or by opening a folder, or it is the last visit's.
Loading itself is loading.py's."""

import asyncio

from app import install, storage
from app.dom import find, show
from app.loading import problem


class ModelChoice:
    """From a choice to a load. A model is a dict as in /config.json."""

    def __init__(self, page):
        self._page = page
        self._unasked = True  # the model at hand may load: once, and not after a cancel

    def place_picker(self, event=None):
        """The one form stands in the empty page, unless the dialog has it."""
        if not self._page.gpu.title:
            self._page.picker.place("hero-picker")

    def open(self, button=None):
        """The dialog to choose a model in."""
        gpu = self._page.gpu
        if gpu.title:
            problem(gpu.title, gpu.text)
            return
        self._page.picker.place("dialog-picker")
        if not find("models").open:
            find("models").showModal()

    def choose(self, model):
        """Load this one, on phones and tablets after an advice to install the page."""
        close_dialog()
        self._page.composer.focus()
        if "files" in model:
            self._load(model)
        else:
            size = model.get("size")
            install.before_download(size and size / 1e6, lambda: self._download(model))

    def _download(self, model):
        """Load from the hub. The browser is asked not to throw away by itself what is kept of the model."""
        asyncio.create_task(storage.request_persistent_storage())
        self._load(model)

    def _load(self, model, commit=""):
        """Load it in place of what is loaded: as it is on its hub now, or a commit that is kept here."""
        page = self._page
        self._unasked = False
        page.conversation.stop()
        page.conversation.used = None
        page.loading.start(model, commit)

    # ---- without being asked, and again

    def at_hand(self):
        """The last visit's model, if it loads as soon as the user writes: all of it is kept here, so nothing has to
        be fetched. None without one."""
        page = self._page
        blocked = page.events.smaller or page.gpu.title
        if not self._unasked or page.loading.state != "none" or blocked:
            return None
        model = page.picker.last()
        return model if model and model["id"] in page.stored_models.whole else None

    def load_at_hand(self):
        """The user has begun to write."""
        model = self.at_hand()
        if model:
            self._load(model, self._page.stored_models.whole[model["id"]])

    def reload(self, button=None):
        """Load the same model again, in a fresh engine if the old one is broken; or the one that did not load while
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
        """The model that was too large, with less."""
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
        """Load a folder that was picked or dropped; `read(folders)` gives its name and files."""
        gpu = self._page.gpu
        if gpu.title:
            problem(gpu.title, gpu.text)
            return
        from app import folders  # here, since few visits need it

        try:
            name, files = read(folders)
        except folders.FolderError as error:
            close_dialog()
            problem("Not a model folder", str(error), (("Open another folder", "pick-folder"),))
            return
        self.choose(self._page.picker.add_folder(name, files))

    def drag(self, event):
        """Files hover over the page."""
        if brings_files(event):
            event.preventDefault()
            show(find("drop"), event.type == "dragover")

    def drop(self, event):
        """Files were let go: a model's folder, or chats."""
        if not brings_files(event):
            return
        from app import folders, imports

        event.preventDefault()
        show(find("drop"), False)
        entries, files = folders.dropped(event.dataTransfer)
        if imports.are_chats(entries, files):
            self._page.library.take_files(files)
        else:
            asyncio.create_task(self._read_drop(folders, entries, files))

    async def _read_drop(self, folders, entries, files):
        try:
            found = await folders.from_drop(entries, files)
        except (folders.FolderError, OSError) as error:
            problem("Not a model folder", str(error), (("Open a folder", "pick-folder"),))
            return
        self.take_folder(lambda folders: found)


def close_dialog():
    """The dialog to choose a model in, if it is open."""
    if find("models").open:
        find("models").close()


def brings_files(event):
    """Whether what is dragged are files, not a text of this page."""
    return "Files" in list(event.dataTransfer.types)
