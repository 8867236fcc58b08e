"""Figures of data, models and uncertainties.

Every function returns matplotlib objects, a figure and its axes, and never calls ``show``. It draws
into ``axes`` when they are given (those of a subfigure, for instance). Otherwise it makes a figure:
through pyplot by default, so that ``plt.show()`` and notebooks display it, or with ``pyplot=False``
a free-standing one, for programs that only save it. Nothing else of pyplot's state is touched, and
no rcParams: a style sheet chosen by the caller holds.

Positions are drawn in kpc, velocities in km/s, accelerations in km/s/Myr, densities in solar masses
per pc^3 and per pc^2, whatever the model's units, unless ``usys`` names another unit system.
"""

from torusimaging_torch.plot.bands import plot_profiles
from torusimaging_torch.plot.batch import plot_batch
from torusimaging_torch.plot.covariance import plot_cov_corner, plot_cov_ellipse
from torusimaging_torch.plot.cross_validation import plot_selection
from torusimaging_torch.plot.orbits import plot_action_contours, plot_frequency_curve
from torusimaging_torch.plot.pixels import plot_data_model_residual, plot_data_models_residual
from torusimaging_torch.plot.profiles import plot_acceleration_density, plot_spline_functions

__all__ = [
    "plot_acceleration_density",
    "plot_action_contours",
    "plot_batch",
    "plot_cov_corner",
    "plot_cov_ellipse",
    "plot_data_model_residual",
    "plot_data_models_residual",
    "plot_frequency_curve",
    "plot_profiles",
    "plot_selection",
    "plot_spline_functions",
]
