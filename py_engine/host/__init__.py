"""The only folder that knows browser from native. `open_gpu` and `open_io` pick once; nobody else asks."""
