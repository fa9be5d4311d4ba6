"""What `./dev` runs inside the virtual environment. Standard library only; no part of the engine or of the wheel."""
