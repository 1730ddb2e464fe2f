"""What a person pasted, and the request that it stands for."""

from gateway.explain.pasted.reading import Pasted, read

__all__ = ["Pasted", "read"]
