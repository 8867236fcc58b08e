"""Stars binned in position and velocity, with units: what a model is fitted to."""

from torusimaging_torch.data.binned import (
    estimate_Omega,
    get_binned_counts,
    get_binned_label,
    intrinsic_scatter,
)
from torusimaging_torch.data.binned_sums import BinnedSums
from torusimaging_torch.data.joint_subsamples import JointSubsamples
from torusimaging_torch.data.many import bin_many, scatter_many
from torusimaging_torch.data.selected_subsamples import SelectedSubsamples
from torusimaging_torch.data.selection import with_selection

__all__ = [
    "BinnedSums",
    "JointSubsamples",
    "SelectedSubsamples",
    "bin_many",
    "estimate_Omega",
    "get_binned_counts",
    "get_binned_label",
    "intrinsic_scatter",
    "scatter_many",
    "with_selection",
]


def __dir__() -> list[str]:
    return __all__
