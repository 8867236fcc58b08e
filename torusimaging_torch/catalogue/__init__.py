"""Tables of stars: read by the chunk, selected by conditions, grouped, resampled."""

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.conditions import parse_condition
from torusimaging_torch.catalogue.groups import sliding_windows
from torusimaging_torch.catalogue.resampling import bootstrap, jackknife

__all__ = ["bootstrap", "jackknife", "open_stars", "parse_condition", "sliding_windows"]


def __dir__() -> list[str]:
    return __all__
