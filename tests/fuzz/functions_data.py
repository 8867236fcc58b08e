"""Binned data, catalogues and simulations: each function with arguments that are good."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
from functions_model import BINS, COUNTS, MODEL, POS, STARS

import disks
from torusimaging_torch import catalogue, data, simulate


def _binned(function: Any, **settings: Any) -> Any:
    return lambda **stars: function(**stars, bins=BINS, **settings)


def _of(name: str, function: Any, *settings: Any) -> Any:
    """Return the numbers under a name of a function's answer."""
    return lambda *args, **kwargs: function(*args, *settings, **kwargs)[name]


def _many(pos, vel, label, label_err, group):
    stars = {"pos": pos, "vel": vel, "label": label, "err": label_err, "group": group}
    sums = data.bin_many(stars, "group", BINS, label="label", label_err="err", s=0.1)
    return sums.stacked()["label"]


def _scatter(pos, vel, label, label_err, group):
    stars = {"pos": pos, "vel": vel, "label": label, "err": label_err, "group": group}
    return list(
        data.scatter_many(stars, "group", BINS, label="label", label_err="err", s_N_thresh=5)
    )


GROUP = np.arange(400) % 2
SUMS = data.bin_many(
    {**STARS, "group": GROUP},
    "group",
    BINS,
    label="label",
    label_err=0.05,
    s=0.1,
    resample=catalogue.bootstrap(2, seed=1),
)
COUNTED = data.bin_many({**STARS, "group": GROUP}, "group", BINS)
_SKY: dict[str, Any] = {
    "ra": [10.0, 50.0, 200.0] * u.deg,
    "dec": [-20.0, 5.0, 60.0] * u.deg,
    "parallax": [1.0, 2.0, 1.5] * u.mas,
    "parallax_error": [0.02, 0.03, 0.02] * u.mas,
    "pmra": [5.0, -3.0, 1.0] * u.mas / u.yr,
    "pmdec": [2.0, 4.0, -6.0] * u.mas / u.yr,
    "radial_velocity": [10.0, -20.0, 30.0] * u.km / u.s,
}


def _opened(pos, **rows):
    column = catalogue.open_stars({"pos": pos}, **rows).read()["pos"]
    if isinstance(column, u.Quantity):
        with np.errstate(over="ignore"):
            return column.si.value
    return column if column.dtype.kind in "iuf" else 1.0  # other things are read as they are


def _prepare(**columns):
    table = catalogue.prepare(columns)
    return [np.asarray(table[name], float) for name in ("z", "v_z")]


_PROFILES = ("acceleration", "acceleration_gradient", "density", "potential", "surface_density")


def _potentials() -> dict[str, Any]:
    found: dict[str, Any] = {}
    sheet = simulate.IsothermalSheet(20 * u.km / u.s, 0.3 * u.kpc)
    oscillator = simulate.HarmonicOscillator(0.08 * u.rad / u.Myr)
    for potential in (sheet, oscillator, simulate.milky_way()):
        name = type(potential).__name__
        for method in _PROFILES:
            found[f"{name}.{method}"] = (getattr(potential, method), {"pos": POS})
    return found


def _simulated(**settings):
    oscillator = simulate.HarmonicOscillator(0.08 * u.rad / u.Myr)
    table = simulate.simulate_stars(oscillator, **settings)
    return [table[name] for name in ("z", "v_z", "label")]


FUNCTIONS = {
    "get_binned_label": (_of("label", _binned(data.get_binned_label)), STARS),
    "get_binned_label of edges": (
        lambda pos, vel: data.get_binned_label(**STARS, bins=(pos, vel))["label"],
        BINS,
    ),
    "get_binned_label of settings": (
        _of("label", _binned(data.get_binned_label, **STARS)),
        {"s": 0.1, "s_N_thresh": 5, "weights": np.ones(400)},
    ),
    "get_binned_counts": (
        _of("counts", _binned(data.get_binned_counts)),
        {name: STARS[name] for name in ("pos", "vel")},
    ),
    "intrinsic_scatter": (_binned(data.intrinsic_scatter), {**STARS, "s_N_thresh": 5}),
    "estimate_Omega": (lambda **binned: data.estimate_Omega(binned), disks.draw(MODEL, "gaussian")),
    "with_selection": (
        lambda selection, selection_error, **binned: data.with_selection(
            binned, selection, selection_error
        )["exposure"],
        {**COUNTS, "selection": np.full((6, 6), 0.5), "selection_error": 0.05},
    ),
    "bin_many": (_many, {**STARS, "group": GROUP}),
    "scatter_many": (_scatter, {**STARS, "group": GROUP}),
    "BinnedSums.binned": (
        _of("label", SUMS.binned),
        {"group": 1, "resampling": 0, "label": "label"},
    ),
    "BinnedSums.stacked": (_of("label", SUMS.stacked), {"resampling": 0, "label": "label"}),
    "BinnedSums.scatter": (SUMS.scatter, {"label": "label"}),
    "BinnedSums.merge": (lambda others: SUMS.merge(others).n_stars, {"others": SUMS}),
    "SelectedSubsamples": (
        lambda selection, selection_error: data.SelectedSubsamples(
            COUNTED, selection, selection_error
        )[0]["exposure"],
        {"selection": np.linspace(0.5, 1, 25).reshape(5, 5), "selection_error": 0.1},
    ),
    "CircularSpeed": (
        lambda v_c, R, L_z: catalogue.CircularSpeed(v_c, R).guiding_radius(L_z),
        {
            "v_c": [220.0, 230.0, 225.0] * u.km / u.s,
            "R": [5.0, 8.0, 11.0] * u.kpc,
            "L_z": [1500.0, 1900.0] * u.kpc * u.km / u.s,
        },
    ),
    "CircularSpeed.guiding_radius": (
        catalogue.CircularSpeed().guiding_radius,
        {"L_z": [1500.0, 1900.0] * u.kpc * u.km / u.s},
    ),
    "CircularSpeed.read": (
        lambda R, v_c: (
            catalogue.CircularSpeed.read(catalogue.open_stars({"R": R, "v_c": v_c}).read()).v_c
        ),
        {"R": [5.0, 8.0, 11.0] * u.kpc, "v_c": [220.0, 230.0, 225.0] * u.km / u.s},
    ),
    "ExponentialPrior": (
        lambda length: catalogue.ExponentialPrior(length).quantiles(
            np.array([1.0]), np.array([0.1]), np.array([0.0])
        ),
        {"length": 1.35},
    ),
    "ExponentialPrior.quantiles": (
        catalogue.ExponentialPrior().quantiles,
        {
            "parallax": np.array([1.0, 2.0]),
            "error": np.array([0.1, 0.2]),
            "normal": np.array([0.0, 1.0]),
        },
    ),
    "Sun": (
        lambda R_sun, z_sun, v_sun: catalogue.Sun(R_sun, z_sun, v_sun).v_sun.to(u.km / u.s),
        {
            "R_sun": 8.2 * u.kpc,
            "z_sun": 20.0 * u.pc,
            "v_sun": [8.4, 251.8, 8.4] * u.km / u.s,
        },
    ),
    "bootstrap": (
        lambda n, seed: catalogue.bootstrap(n, seed=seed).copies(0, 5),
        {"n": 3, "seed": 1},
    ),
    "jackknife": (
        lambda n, seed: catalogue.jackknife(n, seed=seed).copies(0, 5),
        {"n": 3, "seed": 1},
    ),
    "open_stars": (_opened, {"pos": POS, "first_row": 0, "total_rows": 3, "chunk_rows": 2}),
    "parse_condition": (
        lambda text, columns: len(str(catalogue.parse_condition(text, columns))) > 0,
        {"text": "z > 0", "columns": ["z"]},
    ),
    "prepare": (_prepare, _SKY),
    "prepare of choices": (
        lambda **choices: np.asarray(catalogue.prepare(_SKY, **choices)["z"], float),
        {"preset": "gaia-rvs", "where": ("parallax > 0 mas",)},
    ),
    "sliding_windows": (
        lambda start, stop, step, width: (
            list(catalogue.sliding_windows("R", start, stop, step, width).describe().values())
            and 1.0
        ),
        {"start": 7.0 * u.kpc, "stop": 9.0 * u.kpc, "step": 0.5 * u.kpc, "width": 1.0 * u.kpc},
    ),
    **_potentials(),
    "HarmonicOscillator": (
        lambda Omega: simulate.HarmonicOscillator(Omega).potential(POS),
        {"Omega": 0.08 * u.rad / u.Myr},
    ),
    "IsothermalSheet": (
        lambda sigma, z0: simulate.IsothermalSheet(sigma, z0).potential(POS),
        {"sigma": 20 * u.km / u.s, "z0": 0.3 * u.kpc},
    ),
    "VerticalPotential": (
        lambda R: simulate.VerticalPotential(simulate.milky_way().gala_potential, R).potential(POS),
        {"R": 8.3 * u.kpc},
    ),
    "milky_way": (lambda R: simulate.milky_way(R).potential(POS), {"R": 8.3 * u.kpc}),
    "milky_way_disk": (
        lambda n, R, seed: simulate.milky_way_disk(n, R, seed=seed)["z"],
        {"n": 5, "R": 8.3 * u.kpc, "seed": 1},
    ),
    "simulate_stars": (
        _simulated,
        {
            "n": 5,
            "seed": 1,
            "df": 0.01 * u.kpc**2 / u.Myr,
            "label_scatter": 0.04,
            "label_err": 0.05,
            "pos0": 0.01 * u.kpc,
            "vel0": 1.0 * u.km / u.s,
            "selection": 2.0 * u.kpc,
        },
    ),
}
