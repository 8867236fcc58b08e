"""What fits found: profiles with errors, tables, and files that can be read back."""

from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.derived import derived_quantities
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.potentials import to_gala, to_galpy
from torusimaging_torch.results.profile_table import profiles
from torusimaging_torch.results.rotation import rotation_curve
from torusimaging_torch.results.summary import summarize

__all__ = [
    "BatchResult",
    "FitResult",
    "derived_quantities",
    "profiles",
    "rotation_curve",
    "summarize",
    "to_gala",
    "to_galpy",
]


def __dir__() -> list[str]:
    return __all__
