"""Knots and penalties chosen by what they predict of data held out."""

from torusimaging_torch.cross_validation.selection import Selection, select

__all__ = ["Selection", "select"]


def __dir__() -> list[str]:
    return __all__
