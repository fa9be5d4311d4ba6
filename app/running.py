"""The answer that is being written: its text so far, and the status line under it."""

from app.clock import now_ms, since_ms
from app.rows import seconds_text, speed_text

PATIENCE_S = 3  # wait for a first token before seconds are counted


class Running:
    """`message` grows with each message of the worker; `row` shows it."""

    def __init__(self, chat, message, row):
        self.chat = chat
        self.message = message
        self.row = row
        self.request = None  # the id, once it was sent to the worker
        self.saving = False
        self.searches = False  # the documents are being searched
        self.started = now_ms()
        self.first_s = None
        self.thinks_since = None  # start of the thinking (now_ms), None when it does not think
        self.tps = 0.0
        self.tokens = 0

    def take(self, heard, whole=False):
        """Add a token message to the answer, or a complete one (`whole`)."""
        if self.first_s is None:
            self.first_s = since_ms(self.started) / 1000
        self.tps, self.tokens = heard["tps"], heard["num_tokens"]
        kept = self.message
        if heard["reasoning"]:
            if self.thinks_since is None and "thought_s" not in kept:
                self.thinks_since = now_ms()
            kept["reasoning"] = (
                heard["reasoning"] if whole else kept["reasoning"] + heard["reasoning"]
            )
        if heard["tool_calls"]:
            kept["tool_calls"] = ([] if whole else kept.get("tool_calls", [])) + heard["tool_calls"]
        kept["content"] = heard["text"] if whole else kept["content"] + heard["text"]
        if whole:
            self.first_s = heard["ttft_s"]
            if heard["tool_call_errors"]:
                kept["unread_calls"] = len(heard["tool_call_errors"])
        if heard["text"] or heard["tool_calls"]:
            self.end_thinking()

    def end_thinking(self):
        """The thinking has ended; the answer follows."""
        if self.thinks_since is not None:
            spent = since_ms(self.thinks_since)
            self.message["thought_s"] = spent / 1000
            self.thinks_since = None

    def forgot(self, count):
        """The model no longer sees the oldest messages: show where that begins, and where it changes."""
        before = [m["forgot"] for m in self.chat.before(self.message) if "forgot" in m]
        if before[-1:] != [count]:
            self.message["forgot"] = count

    def end(self, reason):
        """The answer has ended."""
        self.end_thinking()
        self.message["stats"] = {
            "tps": self.tps,
            "ttft_s": self.first_s,
            "tokens": self.tokens,
            "finish": reason,
        }

    def state(self, loading):
        """Return the status line under the answer. `loading`: the model is still loading."""
        parts = []
        if self.tps:
            parts.append(speed_text(self.tps))
        if self.first_s is not None:
            parts.append("first token " + seconds_text(self.first_s))
        elif self.searches:
            parts.append("searching the documents")
        elif loading:
            parts.append("waiting for the model")
        else:
            waited = since_ms(self.started) // 1000
            if waited >= PATIENCE_S:
                parts.append(f"reading, {waited} s")
        return " \u00b7 ".join(parts)
