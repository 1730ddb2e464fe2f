"""Gateway: a reverse proxy that knows who `sub` is."""

__version__ = "0.1.0"
