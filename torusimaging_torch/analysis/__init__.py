"""From a table of stars to numbers, files and figures: what the command runs."""

from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.settings import Settings

__all__ = ["Settings", "analyse"]


def __dir__() -> list[str]:
    return __all__
