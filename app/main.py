"""The page: wires what the person does to the chat, the models and the engine's worker. MicroPython, by PyScript.

Every button names its action in `data-do`; the table of actions stands at the end.
"""

import asyncio

import js
from js import document, window

from app import address, crash, device, exports, hero, install, storage, updates
from app.client import Client
from app.conversation import Conversation
from app.dom import button as make_button
from app.dom import clear, find, is_enter, is_escape, show
from app.drafts import Drafts
from app.hints import withdraw
from app.library import Library
from app.loading import Loading, label, problem
from app.picker import Picker, problem_card
from app.rows import UserRow
from app.settings import Settings
from app.sidebar import Sidebar
from app.stored import StoredModels

LOOK_AGAIN_S = (5, 15, 45)  # between looks for a GPU, after which the person is left to ask

prompt = find("prompt")
gpu = device.Gpu()
smaller = None  # the setting that is offered after a page that broke down, or memory that ran out
unasked = True  # a model that is kept here may load when the person begins to write: once, and not after a cancel
CONFIG_S = 1.5  # between two looks at what the server fetches
query = js.URLSearchParams.new(window.location.search)


def asked(name):
    """A parameter of the page's address, None without one."""
    return query.get(name) or None


def load_options():
    """dtype, context and submit grouping for a load message: the settings', else the address's."""
    options = {"dtype": asked("dtype")}
    for name in ("context", "group", "passes"):
        text = asked(name) or ""
        options[name] = int(text) if text.isdigit() else None
    if settings.context:
        options["context"] = int(settings.context)
    if settings.group and not asked("group") and not asked("passes"):
        options["group"] = int(settings.group)
    options["proven"] = crash.proven() or None
    return {name: value for name, value in options.items() if value is not None}


# ---- what is shown


def refresh():
    """Bring buttons, names and lines in step with what is going on."""
    state = loading.state
    document.body.setAttribute("data-model", state)
    empty = not conversation.chat.messages
    nothing = "No GPU" if gpu.title else "Choose a model"
    find("model-name").textContent = nothing if state == "none" else label(loading.model)
    running = conversation.running is not None
    show(find("stop"), running)
    show(find("send"), not running)
    show(find("hero"), empty)
    show(find("chat-menu"), not empty)
    if empty:
        name = label(loading.model) if loading.model else ""
        kept = at_hand()
        hero.draw(state, name, conversation.continues(), gpu, label(kept) if kept else "")
    if not find("models").open:
        place_picker()
    prompt.placeholder = "Begin a text" if conversation.continues() else "Write a message"
    find("state").textContent = state_line(state)
    draw_context()
    typed()
    sidebar.refresh(conversation.chat.id)


def state_line(state):
    """The line under the message box."""
    if gpu.title:
        return "Chats can be read here, not continued"
    if state == "ready":
        return "Runs on " + (gpu.name or "this device")
    if state == "loading":
        return "Loading; you can write already"
    return client.boots or "No model is loaded"


def place_picker():
    """The one form stands in the empty page, unless the dialog has it."""
    if gpu.title:
        return
    picker.place("hero-picker")


def draw_context():
    """How much of the context the chat has used."""
    line = find("context")
    most = (loading.info.get("context") or {}).get("max")
    used = conversation.used
    show(line, bool(used and most))
    if used and most:
        line.textContent = f"Context {used:,} of {most:,}"
        line.className = "full" if used > 0.9 * most else ""


def typed(event=None):
    """The message box changed: its height, and whether it can be sent."""
    rows = min(10, prompt.value.count("\n") + 1)
    if prompt.rows != rows:
        prompt.rows = rows
    if event is not None:
        drafts.written()
    begun = prompt.value.strip()
    find("send").disabled = not begun or bool(gpu.title)
    kept = at_hand()
    if begun and kept and drafts.touched:
        load(kept, stored_models.whole[kept["id"]])


def at_hand():
    """The model of the last visit, if beginning to write loads it: kept here as a whole, so nothing is asked for."""
    if not unasked or loading.state != "none" or smaller or gpu.title:
        return None
    model = picker.last()
    return model if model and model["id"] in stored_models.whole else None


# ---- what the person does


def send(event=None):
    """Send what is in the box, or have a model chosen first."""
    if event is not None:
        event.preventDefault()
    text = prompt.value.strip()
    if not text or conversation.running or gpu.title:
        return
    if loading.state == "none":
        open_models()
        return
    conversation.send(text, drafts.sent(conversation.chat))
    address.show(conversation.chat.id, False)


def key_in_prompt(event):
    """Enter sends."""
    if is_enter(event):
        send(event)


def key_anywhere(event):
    """Escape stops the answer, once nothing else is open that it closes."""
    if not is_escape(event) or document.querySelector("dialog[open]"):
        return
    menu = find("chat-menu")
    if menu.open:
        menu.open = False
        menu.children[0].focus()
    elif not sidebar.close() and not install.cancel():
        conversation.stop()


def open_models(button=None):
    """The dialog to choose a model in."""
    if gpu.title:
        problem(gpu.title, gpu.text)
        return
    picker.place("dialog-picker")
    if not find("models").open:
        find("models").showModal()


def choose(model):
    """Load this one, on phones and tablets after an advice to install the page."""
    if find("models").open:
        find("models").close()
    prompt.focus()
    if "files" in model:
        load(model)
    else:
        size = model.get("size")
        install.before_download(size and size / 1e6, lambda: download(model))


def download(model):
    """Load from the hub, what is kept of it being safe from the browser's own tidying if it agrees."""
    asyncio.create_task(storage.request_persistent_storage())
    load(model)


def load(model, commit=""):
    """Load it in place of what is loaded: as it is on its hub now, or a commit that is kept here."""
    global unasked
    unasked = False
    conversation.stop()
    conversation.used = None
    loading.start(model, commit)


def take_folder(read):
    """Load a folder that was picked or dropped; `read(folders)` gives its name and files."""
    if gpu.title:
        problem(gpu.title, gpu.text)
        return
    from app import folders

    try:
        name, files = read(folders)
    except folders.FolderError as error:
        if find("models").open:
            find("models").close()
        problem("Not a model folder", str(error), (("Open another folder", "pick-folder"),))
        return
    choose(picker.add_folder(name, files))


async def read_drop(folders, entries, files):
    """Read what was dropped, then load it."""
    try:
        found = await folders.from_drop(entries, files)
    except (folders.FolderError, OSError) as error:
        problem("Not a model folder", str(error), (("Open a folder", "pick-folder"),))
        return
    take_folder(lambda folders: found)


def brings_files(event):
    """Whether what is dragged are files, not a text of this page."""
    return "Files" in list(event.dataTransfer.types)


def drag(event):
    """Files hover over the page."""
    if brings_files(event):
        event.preventDefault()
        show(find("drop"), event.type == "dragover")


def drop(event):
    """Files were let go."""
    from app import folders, imports

    if brings_files(event):
        event.preventDefault()
        show(find("drop"), False)
        entries, files = folders.dropped(event.dataTransfer)
        if imports.are_chats(entries, files):
            library.take_files(files)
        else:
            asyncio.create_task(read_drop(folders, entries, files))


def reload_model(button=None):
    """Load the same model again, in a fresh engine if the old one is broken; or the one that did not load while another
    one is in use."""
    show(find("notice"), False)
    model = loading.failed or loading.model
    if model is None:
        open_models()
        return
    conversation.stop()
    if not loading.failed:
        client.restart()
    loading.start(model)


def row_of(button):
    """The number of the message that a button belongs to; the last one's for buttons elsewhere."""
    row = button.closest(".message")
    return int(row.getAttribute("data-index")) if row else len(conversation.rows) - 1


def copy_message(button):
    """The source of a message, thinking left out where there is anything else."""
    message = conversation.rows[row_of(button)].message
    asyncio.create_task(exports.copy(button, message["content"] or message.get("reasoning", "")))


def copy_code(button):
    """A code block."""
    code = button.closest(".code").querySelector("code").textContent
    asyncio.create_task(exports.copy(button, code))


def edit(button):
    """Rewrite a message."""
    if not conversation.running:
        conversation.edit(row_of(button))


def cancel_edit(button):
    """Leave it as it was."""
    row = conversation.rows[row_of(button)]
    if isinstance(row, UserRow):
        row.end_edit()


def again(button):
    """Answer anew."""
    if loading.state == "none" and not gpu.title:
        open_models()
        return
    conversation.again(row_of(button))


def starter(button):
    """Send one of the examples. What stands in the message box stays there, as the draft of the chat that begins."""
    if conversation.running:
        return
    written = prompt.value
    prompt.value = button.textContent
    send()
    if written:
        prompt.value = written
        typed()
        drafts.written()


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


def open_settings(button):
    """The settings dialog, with what is kept on this device."""
    stored_models.opened()
    settings.show(loading.info)


def install_advice(button):
    """How this page is installed, asked for in the settings."""
    find("settings").close()
    install.advise()


# ---- start


def came_back(event):
    """The page was left and is shown again."""
    client.stay()
    library.back(event)


def left(event):
    """The page is closed or left, by the person or for another one."""
    library.leave()
    client.leave()


def engine_booted(message):
    """Python runs in the worker."""
    document.body.setAttribute("data-engine", "ready")
    find("state").textContent = state_line(loading.state)
    js.performance.mark("engine")
    stored_models.refresh()
    updates.watch()  # from here on, so that the shell's files do not hold up the engine's
    js.console.info("engine:", message["runtime"], message["boot_ms"], "ms")


def engine_told(message):
    """Something that nobody asked for."""
    global smaller
    if message["status"] == "booting":
        loading.booting()
        find("state").textContent = state_line(loading.state)
        return
    if message["status"] == "calibrated":
        crash.keep_proven(message)
        return
    if message["status"] == "device":
        gpu_lost(message)
        return
    smaller = crash.Crash(message)
    if loading.name == smaller.model:  # chosen again before this was known
        loading.cancel()
    smaller.show()


def load_smaller(button=None):
    """The same model, with less."""
    show(find("notice"), False)
    settings.be_careful(smaller.context, smaller.group)
    model = picker.find(smaller.model)
    if model:
        choose(model)
    else:
        open_models()


def engine_failed(reason):
    """The worker is gone."""
    document.body.setAttribute("data-engine", "failed")
    loading.lost()
    actions = (("Try again", "restart-engine"),)
    updates.watch()  # a newer version may be the cure
    problem("The engine did not start", reason + "\nCheck the connection, then try again.", actions)


def engine_died(reason):
    """Python ended in the worker, and another one boots: the chat stays, and the model comes back by itself, unless
    that is what ended Python."""
    document.body.setAttribute("data-engine", "booting")
    model = loading.after_death()
    again = (
        () if model else (("Try again", "reload-model"), ("Choose another model", "open-models"))
    )
    back = "The model is being loaded again; then ask again. " if model else ""
    text = "It used up its memory or its stack, and was started afresh. The chat is as it was. "
    problem("The engine broke down", text + back + "(" + reason + ")", again)
    if model:
        loading.start(model, keep_notice=True)


def gpu_lost(message):
    """The worker tells of a lost GPU: what it does about it, then how that ended."""
    during = message["during"]
    if message["state"] == "lost":
        rest = {"load": "Loading begins again.", "idle": "The model is being loaded again."}
        answer = "The model is being loaded again, then the answer goes on."
        problem("The GPU was lost", rest.get(during, answer))
    elif message["state"] == "recovered":
        goes_on = "" if during in ("load", "idle") else " The answer goes on."
        problem("The GPU was lost and is back", "The chat is as it was." + goes_on)
    elif during == "idle":
        actions = (("Try again", "reload-model"), ("Choose another model", "open-models"))
        loading.lost()
        problem("The GPU is gone", message["message"], actions)
    elif during != "load" and message["losses"] > 1:
        problem(
            "The GPU was lost again and again", message["message"], with_less("DeviceLostError")
        )
    else:
        show(find("notice"), False)  # the load or answer that it was lost in says why


def with_less(error_type):
    """What to go on with after a load or an answer that failed so: less, where memory ran out."""
    global smaller
    if error_type not in ("DeviceLostError", "OutOfMemoryError"):
        return (("Try again", "reload-model"), ("Choose another model", "open-models"))
    context = (loading.info.get("context") or {}).get("max") or load_options().get("context")
    smaller = crash.Smaller(loading.model["id"], context)
    return smaller.actions()


def restart_engine(button=None):
    """Boot a fresh worker."""
    show(find("notice"), False)
    document.body.setAttribute("data-engine", "booting")
    client.restart()


async def look_for_gpu(button=None):
    """Ask for a GPU; with one, boot the engine (it loads no model), without one, say what is missing."""
    global gpu
    gpu = await device.look()
    place = find("hero-picker")
    clear(place)
    if gpu.ok:
        picker.show_gpu(gpu)
        document.body.setAttribute("data-engine", "ready" if client.booted else "booting")
        client.start()
    else:
        card = problem_card(gpu.title, gpu.text)
        card.children[0].append(make_button("Look again", "look-for-gpu"))
        place.append(card)
        document.body.setAttribute("data-engine", "none")
        updates.watch()
    refresh()


async def begin_with_gpu():
    """Look for a GPU. The browser of a busy machine may give one after a while: then the engine boots after all."""
    await look_for_gpu()
    for seconds in LOOK_AGAIN_S:
        if gpu.ok or not gpu.asked:
            return
        await asyncio.sleep(seconds)
        if not gpu.ok and (await device.look()).ok:
            await look_for_gpu()


async def fetch_config():
    """The server's list of models, and again as long as it looks for some or fetches them; less often where nothing
    changes (it may be a list that was kept, of a server that is gone)."""
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
        if config or picker.hub is None:
            picker.offer(config)
            refresh()
        document.body.setAttribute("data-config", "ready")
        fetching = (config or {}).get("fetching") or []
        under_way = [model for model in fetching if model["phase"] != "failed"]
        if not under_way and not (config or {}).get("looking"):
            return
        pause = min(pause * 1.5, 60) if text == last else CONFIG_S
        last = text
        await asyncio.sleep(pause)


ACTIONS = {
    "again": again,
    "cancel-edit": cancel_edit,
    "cancel-load": lambda button: loading.cancel(),
    "close-dialog": lambda button: button.closest("dialog").close(),
    "close-sidebar": lambda button: sidebar.close(),
    "copy": copy_message,
    "copy-code": copy_code,
    "delete-all": lambda button: library.delete_all(button),
    "delete-chat": lambda button: library.delete_chat(button),
    "delete-model": lambda button: stored_models.delete(button),
    "delete-models": lambda button: stored_models.delete_all(button),
    "dismiss": lambda button: show(find("notice"), False),
    "earlier": lambda button: conversation.switch(row_of(button), -1),
    "edit": edit,
    "export-all": lambda button: library.export_all(button),
    "export-json": lambda button: library.export(exports.as_json),
    "export-markdown": lambda button: library.export(exports.as_markdown),
    "look-for-gpu": lambda button: asyncio.create_task(look_for_gpu()),
    "import": lambda button: library.pick_files(button),
    "import-seen": lambda button: withdraw("imported"),
    "install-advice": install_advice,
    "install-cancel": install.cancel,
    "install-later": install.later,
    "install-now": install.now,
    "later": lambda button: conversation.switch(row_of(button), 1),
    "load-smaller": load_smaller,
    "new-chat": lambda button: library.new_chat(button),
    "open-chat": lambda button: library.open_chat(button),
    "open-models": open_models,
    "open-settings": open_settings,
    "open-sidebar": lambda button: sidebar.open(),
    "pick-folder": lambda button: picker.pick_folder(),
    "reload-model": reload_model,
    "reset-settings": lambda button: settings.reset(loading.info),
    "restart-engine": restart_engine,
    "starter": starter,
    "stop": lambda button: conversation.stop(),
    "to-end": lambda button: conversation.to_end(),
    "update": updates.accept,
    "update-later": updates.later,
}


def clicked(event):
    """Find the action of what was clicked."""
    button = event.target.closest("[data-do]")
    if event.target.closest(".skip"):
        event.preventDefault()  # else it takes the chat out of the address
        prompt.focus()
    menu = find("chat-menu")
    if menu.open and not menu.contains(event.target):
        menu.open = False
    if button is not None:
        ACTIONS[button.getAttribute("data-do")](button)


FACTS = {
    "JERBOA_HANDHELD": storage.is_handheld(),
    "JERBOA_INSTALLED": storage.is_standalone(),
    "JERBOA_IOS": storage.is_ios(),
}
client = Client(
    asked("runtime") or "", FACTS, engine_booted, engine_failed, engine_told, engine_died
)
settings = Settings(lambda text: problem("Settings", text))
sidebar = Sidebar()
stored_models = StoredModels(client, confirm, lambda: loading.name, lambda: refresh())
loading = Loading(client, load_options, lambda: refresh(), with_less)
picker = Picker(choose, take_folder)
conversation = Conversation(
    client, loading, settings, lambda: refresh(), problem, lambda: library.lost()
)
drafts = Drafts()
library = Library(conversation, drafts, sidebar, confirm, lambda: refresh())

document.addEventListener("click", clicked)
document.addEventListener("keydown", key_anywhere)
find("composer").addEventListener("submit", send)
prompt.addEventListener("keydown", key_in_prompt)
prompt.addEventListener("input", typed)
find("models").addEventListener("close", lambda event: place_picker())
for kind in ("dragover", "dragleave"):
    window.addEventListener(kind, drag)
window.addEventListener("drop", drop)
window.addEventListener("pagehide", left)
window.addEventListener("pageshow", came_back)
window.addEventListener("popstate", library.went)
document.addEventListener("visibilitychange", lambda event: client.look())
window.addEventListener("storage", library.stored)
refresh()
document.body.setAttribute("data-ui", "ready")
js.performance.mark("usable")  # devtools/page_timing.py reads it
asyncio.create_task(library.meet())
asyncio.create_task(fetch_config())
asyncio.create_task(begin_with_gpu())
