"""From a table of stars to numbers, files and figures: what the command runs."""

from torusimaging_torch.analysis.settings import Settings
from torusimaging_torch.analysis.single import analyse

__all__ = ["Settings", "analyse"]


def __dir__() -> list[str]:
    return __all__
