"""One conversation: a tree of messages, of which one path is shown.

A message is {"id", "parent" (id of the one it follows, "" for a first one), "made" (ISO 8601), "role", "content",
...}. Messages with the same parent are versions of each other: an edited question, an answer that was generated
again. A question may also carry "pictures" (attachments.py). An answer may carry "model", "stats" {tps, ttft_s,
tokens, finish}, "error"; the thinking before it as "reasoning" and "thought_s" (seconds); "tool_calls" as OpenAI's API
has them; and "unread_calls", the number of calls that stayed text or were wrong.
"""

TITLE_LENGTH = 60
SPEAKERS = {
    "user": "You",
    "assistant": "Answer",
    "system": "System prompt",
    "tool": "Tool",
}  # name shown for each role
FIRST = ""  # the parent of the first messages


class Chat:
    """`record`: {"id", "title", "updated" (ISO 8601), "chosen", ...}. "chosen" is {id of a parent: id of the message
    shown after it}; without an entry the newest is shown. `messages`: all of them, in any order."""

    def __init__(self, record, messages=()):
        self.record = record
        if not isinstance(record.get("chosen"), dict):
            record["chosen"] = {}
        self.id = record["id"]
        self.messages = []  # the conversation as it is shown
        self.stored = False  # its record is in the store, as far as this page knows
        self.kept = 0  # how many of its messages are in the store, as far as this page knows
        self.unsaved = []  # ids of messages whose current state is not in the store
        self._all = {}
        self._below = {}  # id of a message, or FIRST -> the messages after it, oldest first
        for message in messages:
            self._all[message["id"]] = message
        self._arrange()

    def __len__(self):
        return len(self._all)

    def exists(self):
        """Tell whether it is more than an empty new chat: it has messages, or is stored for its documents."""
        return bool(self._all) or self.stored

    def all(self):
        """Return every message, of all versions."""
        return list(self._all.values())

    def find(self, name):
        """Return the message of this id, None without one."""
        return self._all.get(name)

    def add(self, messages, stay=False):
        """Add messages; each replaces the one with its id. `stay`: the path that is shown now stays; else new
        versions are shown, unless another one was chosen."""
        shown = self.messages if stay else []
        for message in messages:
            self._all[message["id"]] = message
        self._arrange()
        for message in shown:
            parent = self._parent(message)
            if len(self._below[parent]) > 1:
                self.record["chosen"][parent] = message["id"]
        self._walk()

    def remove(self, names):
        """Remove messages that others have replaced."""
        for name in names:
            self._all.pop(name, None)
        self._arrange()

    def move(self, message, parent):
        """Move a message after another parent."""
        message["parent"] = parent
        self._arrange()

    def choose(self, message):
        """Show this version, and the path to it. The choices below it stay."""
        passed = []
        while message is not None and message["id"] not in passed:
            passed.append(message["id"])
            parent = self._parent(message)
            if len(self._below[parent]) > 1 or parent in self.record["chosen"]:
                self.record["chosen"][parent] = message["id"]
            message = self._all.get(parent)
        self._walk()

    def versions(self, message):
        """Return all versions of a message, itself among them, oldest first."""
        return self._below[self._parent(message)]

    def last(self):
        """Return the id of the last message that is shown, FIRST without one."""
        return self.messages[-1]["id"] if self.messages else FIRST

    def before(self, message):
        """Return the messages that lead to this one, without it."""
        way = []
        passed = [message["id"]]
        above = self._all.get(message["parent"])
        while above is not None and above["id"] not in passed:
            passed.append(above["id"])
            way.append(above)
            above = self._all.get(above["parent"])
        way.reverse()
        return way

    def title(self):
        """Return the stored title, or the first words of the chat, cut to a line."""
        named = self.record.get("title")
        starts = [line_of(message["content"]) for message in self._starts()]
        if isinstance(named, str) and named and named not in starts and named != "New chat":
            return named
        for message in self.messages:
            names = [p.get("alt") or p["name"] for p in message.get("pictures", ())]
            text = line_of(message["content"] or " ".join(names))
            if text and message["role"] != "system":
                return text
        return "New chat"

    def _starts(self):
        """Return the messages that may give the title: the first ones, and those after a system message."""
        firsts = list(self._below.get(FIRST, ()))
        for message in self._below.get(FIRST, ()):
            if message["role"] == "system":
                firsts += self._below.get(message["id"], ())
        return firsts

    def as_file(self):
        """Return what is downloaded: the conversation as it is shown, then the other versions."""
        whole = dict(self.record)
        whole["title"] = self.title()
        whole["messages"] = self.messages
        shown = {message["id"] for message in self.messages}
        whole["others"] = [m for m in self._all.values() if m["id"] not in shown]
        return whole

    def _parent(self, message):
        """Return the parent of a message; FIRST if its parent is gone."""
        parent = message["parent"]
        return parent if parent in self._all else FIRST

    def _arrange(self):
        below: dict[str, list] = {}
        for message in self._all.values():
            below.setdefault(self._parent(message), []).append(message)
        for messages in below.values():
            messages.sort(key=lambda message: (message["made"], message["id"]))
        self._below = below
        self._walk()

    def _walk(self):
        """Walk down the path that is shown."""
        self.messages = []
        at, passed = FIRST, {}
        while at in self._below and at not in passed:
            passed[at] = True
            versions = self._below[at]
            chosen = self.record["chosen"].get(at)
            shown = [message for message in versions if message["id"] == chosen]
            self.messages.append(shown[0] if shown else versions[-1])
            at = self.messages[-1]["id"]


def line_of(text):
    """Return the beginning of a text as one line."""
    line = " ".join(text[:1000].split())
    return line if len(line) <= TITLE_LENGTH else line[:TITLE_LENGTH].rstrip() + "\u2026"
