"""The answer under way: what has come of it, and what is said of it while it comes."""

from app.clock import now_ms, since_ms
from app.rows import seconds_text, speed_text

PATIENCE_S = 3  # without a first token, before the wait is counted


class Running:
    """`message` grows with what the worker says; `row` shows it."""

    def __init__(self, chat, message, row):
        self.chat = chat
        self.message = message
        self.row = row
        self.request = None  # its id, once the worker is asked
        self.saving = False
        self.started = now_ms()
        self.first_s = None
        self.thinks_since = None  # ticks, while it thinks
        self.tps = 0.0
        self.tokens = 0

    def take(self, heard, whole=False):
        """What a token message adds, or a complete one says, to the answer."""
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
        """From here on it answers."""
        if self.thinks_since is not None:
            spent = since_ms(self.thinks_since)
            self.message["thought_s"] = spent / 1000
            self.thinks_since = None

    def forgot(self, count):
        """The model no longer sees the oldest messages: said where that begins, and where it goes further."""
        before = [m["forgot"] for m in self.chat.before(self.message) if "forgot" in m]
        if before[-1:] != [count]:
            self.message["forgot"] = count

    def end(self, reason):
        """Nothing more comes."""
        self.end_thinking()
        self.message["stats"] = {
            "tps": self.tps,
            "ttft_s": self.first_s,
            "tokens": self.tokens,
            "finish": reason,
        }

    def state(self, loading):
        """The line under the answer. `loading`: the model is still on its way."""
        parts = []
        if self.tps:
            parts.append(speed_text(self.tps))
        if self.first_s is not None:
            parts.append("first token " + seconds_text(self.first_s))
        elif loading:
            parts.append("waiting for the model")
        else:
            waited = since_ms(self.started) // 1000
            if waited >= PATIENCE_S:
                parts.append(f"reading, {waited} s")
        return " \u00b7 ".join(parts)
