"""The command ``torusimaging-torch``: what is typed, and what is printed."""

from torusimaging_torch.command.main import main

__all__ = ["main"]


def __dir__() -> list[str]:
    return __all__
