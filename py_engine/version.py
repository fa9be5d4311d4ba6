"""The engine's version, on its own so that every part may name it."""

VERSION = "0.2.0"
