"""Many subsamples at once, in this process or in many, with a store that survives."""

from torusimaging_torch.batch.many import fit_many
from torusimaging_torch.batch.store import merge

__all__ = ["fit_many", "merge"]


def __dir__() -> list[str]:
    return __all__
