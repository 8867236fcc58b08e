"""Stars to binned data: counts and mean labels on a grid in (position, velocity), with units."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.stats import median_absolute_deviation
from gala.units import UnitSystem, galactic

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.arguments import COUNTS, Label, bare, by_label, by_name, read_grid
from torusimaging_torch.data.joint_subsamples import JointSubsamples
from torusimaging_torch.data.many import sum_stars
from torusimaging_torch.data.reader import StarReader, warn_left_out
from torusimaging_torch.data.scatter import find_scatters
from torusimaging_torch.units import (
    Binned,
    BinnedData,
    Bins,
    Labels,
    Numbers,
    as_unit_system,
    label_values,
    of_one_data_set,
    unit_of,
)

__all__ = [
    "array_reader",
    "estimate_Omega",
    "get_binned_counts",
    "get_binned_label",
    "intrinsic_scatter",
]


# The share of the pixels, in per cent, that upstream's guess of Omega0 takes for central and
# for those with the central label.
_CENTRAL_PERCENT = 15


def get_binned_counts(
    pos: Numbers,
    vel: Numbers,
    bins: Bins,
    units: UnitSystem = galactic,
) -> Binned:
    """Count the stars in pixels of phase space.

    Parameters
    ----------
    pos, vel
        Position and velocity of the stars, each with shape (N,). Quantities are converted, bare
        arrays are in model units (kpc and kpc/Myr by default). Stars off the grid do not count;
        of those whose position or velocity is not finite a warning tells the number.
    bins
        Pixel edges: a dictionary with keys "pos" and "vel" or a tuple (pos, vel), with shapes
        (n_pos + 1,) and (n_vel + 1,), increasing, in any spacing. As in `numpy.histogram` a pixel
        holds its lower edges, and the last one its upper edge too.
    units
        The unit system of the result.

    Returns
    -------
    dict
        ``pos`` and ``vel`` of the pixel centres, ``counts``, and ``label``, the natural logarithm
        of the counts, nan in empty pixels; each with shape (n_vel, n_pos).

    Raises
    ------
    ValueError
        If the lengths of pos and vel differ, or bins are not increasing edges.
    astropy.units.UnitConversionError
        If a Quantity has the wrong dimension.

    Examples
    --------
    >>> import astropy.units as u
    >>> from torusimaging_torch.data import get_binned_counts
    >>> bins = {"pos": [-1, 0, 1] * u.kpc, "vel": [-50, 50] * u.km / u.s}
    >>> binned = get_binned_counts([-0.5, 0.2, 0.3] * u.kpc, [5, -9, 30] * u.km / u.s, bins)
    >>> binned["counts"]
    array([[1., 2.]])
    >>> binned["pos"]
    <Quantity [[-0.5,  0.5]] kpc>
    """
    units = as_unit_system(units)
    stars, labels = {"pos": pos, "vel": vel}, {COUNTS: Label(None)}
    reader = StarReader(stars, None, read_grid(bins, units), units, labels)
    binned = sum_stars(reader, {COUNTS: None})
    warn_left_out(reader)
    return binned[0]


def get_binned_label(
    pos: Numbers,
    vel: Numbers,
    label: Labels,
    bins: Bins,
    moment: str = "mean",
    label_err: Labels | None = None,
    units: UnitSystem = galactic,
    s: Labels | None = None,
    s_N_thresh: int | None = None,
    *,
    weights: Labels | None = None,
    independent: bool = False,
) -> Binned:
    """Average stellar labels in pixels of phase space.

    The labels of a pixel scatter about their mean by their errors and by an intrinsic scatter s, so
    the mean has weights w = 1/(label_err^2 + s^2) and the error 1/sqrt(sum w). Unless s is given it
    is estimated by `intrinsic_scatter`.

    Parameters
    ----------
    pos, vel, bins, units
        As for `get_binned_counts`.
    label
        Label of the stars with shape (N,), a bare array or a Quantity (dex, Gyr, ...); or a
        dictionary of several, which are then binned in one pass.
    moment
        Only "mean".
    label_err
        Errors of the labels with shape (N,), or one number; None if they are not known, and then
        the scatter is all there is and the error of a mean is s/sqrt(counts). With a dictionary of
        labels, a dictionary with the same keys (its values may be None).
    s
        Intrinsic scatter of the labels in a pixel, in the label's unit. With a dictionary of
        labels, a dictionary with the same keys (its values may be None).
    s_N_thresh
        If s is to be estimated, from pixels with more than this number of stars alone. By default
        from all pixels with two stars or more: the estimate has no bias in small pixels.
    weights
        How much each star counts, with shape (N,), not negative: the weights of a mean are then
        weights/(label_err^2 + s^2), and all of them together its error. Such are probabilities that
        a label is no outlier; see `~torusimaging_torch.TorusImaging1D.fit_outliers`. The scatter
        must be given then. With a dictionary of labels, a dictionary with the same keys.
    independent
        Whether several labels of a star count as independent. By default the covariance of their
        means is estimated from the stars, and a joint fit takes it into account; see
        `torusimaging_torch.data.pairs`.

    Returns
    -------
    dict
        ``pos`` and ``vel`` of the pixel centres, ``counts`` of the stars used, mean ``label`` and
        its error ``label_err``, each with shape (n_vel, n_pos); labels are Quantities if they came
        as such. In empty pixels counts are 0 and label and label_err nan. For a dictionary of
        labels, a dictionary with such a dictionary for each; they share ``pos`` and ``vel``, and
        have ``label_covariance``, a dictionary of their covariances with the others by name.

    Raises
    ------
    ValueError
        If shapes do not match, bins are not increasing edges, or s cannot be determined.
    astropy.units.UnitConversionError
        If a Quantity has the wrong dimension.
    NotImplementedError
        For other moments than the mean.

    Warns
    -----
    UserWarning
        Tells how many stars were left out because a number was not finite or an error was not
        positive. A star with one bad label still counts for the others.

    Examples
    --------
    >>> from torusimaging_torch.data import get_binned_label
    >>> bins = ([-1, 0, 1], [-0.1, 0.1])  # kpc, and kpc/Myr
    >>> pos, vel, fe_h = [-0.5, 0.2, 0.3], [0.01, -0.02, 0.05], [-0.1, 0.2, 0.4]
    >>> binned = get_binned_label(pos, vel, fe_h, bins, label_err=0.03, s=0.04)
    >>> binned["label"]
    array([[-0.1,  0.3]])
    >>> binned["label_err"].round(4)
    array([[0.05  , 0.0354]])

    Two labels of the same stars, and how their means go together:

    >>> labels = {"fe_h": fe_h, "mg_fe": [0.1, 0.05, 0.0]}
    >>> s = {"fe_h": 0.1, "mg_fe": 0.04}
    >>> both = get_binned_label(pos, vel, labels, bins, s=s)
    >>> both["fe_h"]["label_covariance"]["mg_fe"].round(5)
    array([[-0.004, -0.002]])
    """
    if moment != "mean":
        raise NotImplementedError(f"moment must be 'mean', the only one there is, got {moment!r}")
    units = as_unit_system(units)
    several = isinstance(label, Mapping)
    labels = label if isinstance(label, Mapping) else {"": label}
    reader = array_reader(pos, vel, labels, bins, label_err, units, weights)
    given = by_label(s, reader.labels, "s")
    _check_weighted(reader, given)
    try:
        scatters = _scatters(reader, given, s_N_thresh)
        binned = sum_stars(reader, scatters, independent=independent)
    finally:
        warn_left_out(reader)
    return JointSubsamples(binned)[0] if several else binned[0]


def array_reader(
    pos: Numbers,
    vel: Numbers,
    labels: Mapping[str, Labels],
    bins: Bins,
    label_err: Labels,
    units: UnitSystem,
    weights: Labels | None = None,
) -> StarReader:
    """Return a reader of arrays, with a lone label under the name "".

    Parameters
    ----------
    pos, vel, bins, label_err, units, weights
        As for `get_binned_label`, with a dictionary of labels.
    labels
        By name.
    """
    more = {"label_err": label_err, "weights": weights}
    given = {what: by_name(value, labels, what) for what, value in more.items()}
    stars, named = {"pos": pos, "vel": vel}, {}
    for name, values in labels.items():
        key = "" if name == "" else f"[{name!r}]"
        own = {f"{what}{key}": each[name] for what, each in given.items()}
        stars |= {f"label{key}": values, **own}
        error, weight = (column if x is not None else None for column, x in own.items())
        named[name] = Label(f"label{key}", error, key, weight)
    return StarReader(stars, None, read_grid(bins, units), units, named)


def _check_weighted(reader: StarReader, scatters: Mapping[str, object]) -> None:
    """Raise where stars have weights and no scatter: an estimate would take all stars alike."""
    for name, label in reader.labels.items():
        if label.weight is not None and scatters[name] is None:
            raise ValueError(
                f"weights{label.key} need the scatter of the labels: pass s{label.key}"
            )


def _scatters(
    reader: StarReader, given: Mapping[str, object], s_N_thresh: int | None
) -> dict[str, Array | None]:
    scatters, failures = find_scatters(reader, given, s_N_thresh)
    lower = "" if s_N_thresh is None else "lower s_N_thresh, "  # unknown to the command
    for failure in failures:
        raise ValueError(
            f"cannot determine the intrinsic scatter of label{reader.labels[failure.label].key}: "
            f"{failure.reason}; use larger pixels, {lower}or pass the scatter"
        )
    return scatters


def intrinsic_scatter(
    pos: Numbers,
    vel: Numbers,
    label: Labels,
    bins: Bins,
    label_err: Labels | None = None,
    units: UnitSystem = galactic,
    s_N_thresh: int | None = None,
) -> float | u.Quantity:
    """Estimate the intrinsic scatter of a label about its pixel means, one number for all pixels.

    It is the maximum of the restricted likelihood of label ~ N(mean of the pixel, label_err^2 +
    s^2) with one free mean per pixel (Patterson & Thompson 1971, Biometrika 58, 545). Integrating
    the means out keeps the many pixels with few stars from biasing s low, which best-fitting means
    would do. The change of the mean label across a pixel is part of s.

    Parameters
    ----------
    pos, vel, label, bins, label_err, units, s_N_thresh
        As for `get_binned_label`, with one label.

    Returns
    -------
    float or Quantity
        The scatter in the label's unit; 0 if the labels scatter no more than their errors tell.

    Raises
    ------
    ValueError
        If no pixel has two stars, or more than s_N_thresh stars.

    Examples
    --------
    >>> import numpy as np
    >>> from torusimaging_torch.data import intrinsic_scatter
    >>> rng = np.random.default_rng(0)
    >>> pos, vel = rng.uniform(-1, 1, (2, 50_000))
    >>> label = rng.normal(0, np.hypot(0.03, 0.04), 50_000)
    >>> round(intrinsic_scatter(pos, vel, label, ([-1, 0, 1], [-1, 1]), label_err=0.03), 3)
    0.04
    """
    units = as_unit_system(units)
    reader = array_reader(pos, vel, {"": label}, bins, label_err, units)
    try:
        s = _scatters(reader, {"": None}, s_N_thresh)[""]
    finally:
        warn_left_out(reader)
    assert s is not None
    unit = reader.labels[""].unit
    return s.item() if unit is None else u.Quantity(s.item(), unit, subok=True)


def estimate_Omega(binned_data: BinnedData, units: UnitSystem = galactic) -> u.Quantity:
    """Guess the central frequency Omega0 from the shape of the contour around the centre.

    The pixels whose label is nearest to the central one fill an ellipse, and Omega0 is the ratio of
    its axes: the median absolute deviation of their velocities over that of their positions. This
    is upstream's guess, good for a start. On a disk it is a third too small (0.060 against 0.089
    rad/Myr on a mock of the solar neighbourhood), because orbits that reach far from the midplane
    are slower than the central ones.

    Parameters
    ----------
    binned_data
        What `get_binned_counts` or `get_binned_label` return; pixels without a label are masked.
    units
        The unit system of the result, and of pos and vel if these are bare arrays.

    Returns
    -------
    Quantity
        Omega0, an angle per time.

    Raises
    ------
    ValueError
        If there are too few pixels with a label near the centre.

    Examples
    --------
    >>> import numpy as np
    >>> from torusimaging_torch.data import estimate_Omega, get_binned_counts
    >>> rng = np.random.default_rng(0)
    >>> pos = rng.normal(0, 0.4, 100_000)
    >>> vel = rng.normal(0, 0.08 * 0.4, 100_000)  # an oscillator with Omega0 = 0.08 rad/Myr
    >>> edges = np.linspace(-1, 1, 31)
    >>> print(estimate_Omega(get_binned_counts(pos, vel, (edges, 0.08 * edges))).round(2))
    0.08 rad / Myr
    """
    units, binned_data = as_unit_system(units), of_one_data_set(binned_data)
    pos = bare(binned_data["pos"], "binned_data['pos']", "length", units)
    vel = bare(binned_data["vel"], "binned_data['vel']", "velocity", units)
    label = bare(label_values(binned_data["label"])[0], "binned_data['label']", None)
    if not pos.shape == vel.shape == label.shape:
        raise ValueError(
            f"pos, vel and label must have one shape, got {pos.shape}, {vel.shape}, {label.shape}"
        )
    full = np.isfinite(label)
    inner = full & _smallest(np.abs(pos)) & _smallest(np.abs(vel))
    if not inner.any():
        raise ValueError(
            "cannot estimate Omega0: no pixel near pos = 0, vel = 0 has a label; use larger pixels "
            "or centre pos and vel"
        )
    distance = np.where(full, np.abs(label - label[inner].mean()), np.nan)
    near = full & _smallest(distance)
    if not near.any():
        raise ValueError("cannot estimate Omega0: all pixels near the centre have one label")
    width, height = (median_absolute_deviation(x[near]) for x in (pos, vel))
    if not (width > 0 and height > 0):
        raise ValueError(
            f"cannot estimate Omega0: the {np.count_nonzero(near)} pixels with the central label "
            "have no extent in pos or vel; use more pixels"
        )
    return height / width * unit_of("frequency", units)


def _smallest(values: Array) -> Array:
    """Return which values are below the 15th percentile of those that are not nan."""
    numbers = values[~np.isnan(values)]
    limit = np.percentile(numbers, _CENTRAL_PERCENT) if numbers.size else np.nan
    return np.less(values, limit)
