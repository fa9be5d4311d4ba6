"""The page's entry point: what each click and key does, and the start. Runs in MicroPython, by PyScript.

Every button names its action in `data-do`; ACTIONS is the table of actions.
"""

import asyncio

import js
from js import document, window

from app import exports, install, startup, updates
from app.dom import find, is_escape, show
from app.hints import withdraw
from app.page import Page
from app.rows import UserRow

page = Page()
conversation, library, loading = page.conversation, page.library, page.loading

# ---- messages


def row_of(button):
    """Return the number of the message that a button belongs to; the last one's for buttons elsewhere."""
    row = button.closest(".message")
    return int(row.getAttribute("data-index")) if row else len(conversation.rows) - 1


def copy_message(button):
    """Copy the source of a message, without the thinking unless there is nothing else."""
    message = conversation.rows[row_of(button)].message
    asyncio.create_task(exports.copy(button, message["content"] or message.get("reasoning", "")))


def copy_code(button):
    """Copy a code block."""
    code = button.closest(".code").querySelector("code").textContent
    asyncio.create_task(exports.copy(button, code))


def edit(button):
    """Rewrite a message."""
    if not conversation.running:
        conversation.edit(row_of(button))


def cancel_edit(button):
    """Close the form and keep the message as it was."""
    row = conversation.rows[row_of(button)]
    if isinstance(row, UserRow):
        row.end_edit()


def again(button):
    """Answer again."""
    if loading.state == "none" and not page.gpu.title:
        page.choice.open()
        return
    conversation.again(row_of(button))


# ---- the settings


def open_settings(button):
    """Open the settings dialog, with the list of stored models."""
    page.stored_models.opened()
    asyncio.create_task(library.tell_size())
    page.settings.show(loading.info)


def install_advice(button):
    """Show how to install this page; asked for in the settings."""
    find("settings").close()
    install.advise()


# ---- clicks and keys


ACTIONS = {
    "again": again,
    "cancel-edit": cancel_edit,
    "cancel-load": lambda button: loading.cancel(),
    "close-dialog": lambda button: button.closest("dialog").close(),
    "close-sidebar": lambda button: page.sidebar.close(),
    "copy": copy_message,
    "copy-code": copy_code,
    "delete-all": library.delete_all,
    "delete-chat": library.delete_chat,
    "delete-model": page.stored_models.delete,
    "delete-models": page.stored_models.delete_all,
    "dismiss": lambda button: show(find("notice"), False),
    "earlier": lambda button: conversation.switch(row_of(button), -1),
    "edit": edit,
    "export-all": library.export_all,
    "export-json": lambda button: library.export(exports.as_json),
    "export-markdown": lambda button: library.export(exports.as_markdown),
    "look-for-gpu": lambda button: asyncio.create_task(startup.look_for_gpu(page)),
    "import": library.pick_files,
    "import-seen": lambda button: withdraw("imported"),
    "install-advice": install_advice,
    "install-cancel": install.cancel,
    "install-later": install.later,
    "install-now": install.now,
    "later": lambda button: conversation.switch(row_of(button), 1),
    "load-smaller": page.choice.load_smaller,
    "new-chat": library.new_chat,
    "open-chat": library.open_chat,
    "open-embedder": page.embedder.open,
    "open-models": page.choice.open,
    "open-settings": open_settings,
    "open-sidebar": lambda button: page.sidebar.open(),
    "pick-documents": page.composer.pick_documents,
    "pick-folder": lambda button: page.picker.pick_folder(),
    "pick-pictures": page.composer.pick_pictures,
    "reload-model": page.choice.reload,
    "remove-document": page.documents.remove,
    "remove-picture": page.attached.remove,
    "reset-settings": lambda button: page.settings.reset(loading.info),
    "restart-engine": page.events.restart,
    "show-passage": lambda button: conversation.show_passage(
        row_of(button), int(button.dataset.number)
    ),
    "show-picture": lambda button: conversation.enlarge(row_of(button), button.dataset.id),
    "starter": page.composer.starter,
    "stop": lambda button: conversation.stop(),
    "to-end": lambda button: conversation.to_end(),
    "update": updates.accept,
    "update-later": updates.later,
}


def clicked(event):
    """Call the action of the clicked button."""
    button = event.target.closest("[data-do]")
    if event.target.closest(".skip"):
        event.preventDefault()  # the link would remove the chat from the address
        page.composer.focus()
    for menu in (find("chat-menu"), find("attach")):
        if menu.open and not menu.contains(event.target):
            menu.open = False
    if button is not None:
        ACTIONS[button.getAttribute("data-do")](button)


def key_anywhere(event):
    """Escape stops the answer, unless it closes something that is open."""
    if not is_escape(event) or document.querySelector("dialog[open]"):
        return
    opened = [menu for menu in (find("chat-menu"), find("attach")) if menu.open]
    if opened:
        opened[0].open = False
        opened[0].children[0].focus()
    elif not page.sidebar.close() and not install.cancel():
        conversation.stop()


def came_back(event):
    """The page is shown again after it was left."""
    page.client.stay()
    library.back(event)


def left(event):
    """The page is closed or left."""
    library.leave()
    page.client.leave()


document.addEventListener("click", clicked)
document.addEventListener("keydown", key_anywhere)
find("composer").addEventListener("submit", page.composer.send)
find("prompt").addEventListener("keydown", page.composer.key)
find("prompt").addEventListener("input", page.composer.typed)
find("prompt").addEventListener("paste", page.drops.paste)
find("models").addEventListener("close", page.choice.place_picker)
for kind in ("dragover", "dragleave"):
    window.addEventListener(kind, page.drops.drag)
window.addEventListener("drop", page.drops.drop)
window.addEventListener("pagehide", left)
window.addEventListener("pageshow", came_back)
window.addEventListener("popstate", library.went)
document.addEventListener("visibilitychange", lambda event: page.client.look())
window.addEventListener("storage", library.stored)

# ---- start

page.refresh()
document.body.setAttribute("data-ui", "ready")
js.performance.mark("usable")  # devtools/page_timing.py reads it
asyncio.create_task(library.meet())
asyncio.create_task(startup.fetch_config(page))
asyncio.create_task(startup.begin_with_gpu(page))
