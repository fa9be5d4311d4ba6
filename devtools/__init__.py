"""The tools behind `./dev`, run inside the virtual environment. Not part of the engine or the wheel. Standard library
only."""
