"""Tables of stars: from the sky, read by the chunk, selected by conditions, grouped, resampled."""

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.conditions import parse_condition
from torusimaging_torch.catalogue.distances import ExponentialPrior
from torusimaging_torch.catalogue.groups import sliding_windows
from torusimaging_torch.catalogue.resampling import bootstrap, jackknife
from torusimaging_torch.catalogue.sky import prepare
from torusimaging_torch.catalogue.sun import CircularSpeed, Sun

__all__ = [
    "CircularSpeed",
    "ExponentialPrior",
    "Sun",
    "bootstrap",
    "jackknife",
    "open_stars",
    "parse_condition",
    "prepare",
    "sliding_windows",
]


def __dir__() -> list[str]:
    return __all__
