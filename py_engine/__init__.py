"""Jerboa: AI models on the user's own GPU, from Python."""
