"""What a batch is of, and what was chosen for it from the data, as kept beside the results.

Whoever goes on with results goes on with the same choices, to the last bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from torusimaging_torch.analysis.binning import COUNTS
from torusimaging_torch.catalogue.resampling import Resampling, bootstrap, jackknife
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.penalty_description import plain, with_numbers
from torusimaging_torch.settings import Settings, option_of

__all__ = ["BatchRequest", "Choices", "keep", "recall"]

_FILE = "store-request.json"
_OPTIONS = {one.name: option_of(one) for one in fields(Settings)} | {"groups": "--group"}


@dataclass(frozen=True)
class BatchRequest:
    """What is asked for: everything that decides about the results, but for the stars themselves.

    Attributes
    ----------
    pos, vel
        Names of columns.
    label, label_err
        Columns of labels, and of their errors, one for each label or none.
    counts
        Whether stars are counted, too; without a label they are.
    groups
        What the groups are, texts as in `torusimaging_torch.catalogue.group_texts.GROUP_GRAMMAR`,
        of which all combinations are made; none for all stars together.
    where
        Conditions that all must hold, see `torusimaging_torch.catalogue.conditions`.
    units
        Units of columns, by name.
    hdu, table_format
        As for `torusimaging_torch.catalogue.open_stars`.
    bootstrap, jackknife
        The number of resamplings; not both.
    seed
        Of the random numbers.
    multistart
        Number of starts of each fit.
    settings
        Pixels, model and penalty, as for a single fit.
    """

    pos: str
    vel: str
    label: tuple[str, ...] = ()
    label_err: tuple[str, ...] = ()
    counts: bool = False
    groups: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    hdu: int | str | None = None
    table_format: str | None = None
    bootstrap: int | None = None
    jackknife: int | None = None
    seed: int = 0
    multistart: int = 1
    settings: Settings = field(default_factory=Settings)

    @property
    def labels(self) -> dict[str, str | None]:
        """The columns of what is fitted, by name; that of star counts is None."""
        counted = {COUNTS: None} if self.counts or not self.label else {}
        return {**{name: name for name in self.label}, **counted}

    @property
    def objective(self) -> str | dict[str, str]:
        """What is fitted, as `torusimaging_torch.batch.fit_many` takes it."""
        kinds = {
            name: "poisson" if column is None else "gaussian"
            for name, column in self.labels.items()
        }
        return kinds if len(kinds) > 1 else next(iter(kinds.values()))

    @property
    def columns(self) -> dict[str, Any]:
        """Where stars have what, as `torusimaging_torch.data.bin_many` takes it."""
        errors = dict(zip(self.label, self.label_err, strict=True)) if self.label_err else {}
        label = self.labels if len(self.labels) > 1 else next(iter(self.labels.values()))
        named = {name: errors.get(name) for name in self.label}
        error = named if isinstance(label, dict) else named.get(str(label))
        return {"pos": self.pos, "vel": self.vel, "label": label, "label_err": error}

    @property
    def resampling(self) -> Resampling | None:
        """How stars are resampled, if they are.

        Raises
        ------
        ValueError
            If there are too few resamplings, or two kinds of them.
        """
        if self.bootstrap is not None and self.jackknife is not None:
            raise ValueError("bootstrap and jackknife exclude each other")
        if self.bootstrap is not None:
            return bootstrap(self.bootstrap, seed=self.seed)
        return None if self.jackknife is None else jackknife(self.jackknife, seed=self.seed)

    def describe(self) -> dict[str, Any]:
        """Return the request as JSON has it."""
        described = asdict(self)
        settings = described.pop("settings")
        settings["selection"] = self.settings.selection and str(self.settings.selection)
        for name in ("weak_priors", "outliers"):
            del settings[name]  # a single fit's
        for name in ("pos_max", "vel_max"):
            settings[name] = None if settings[name] is None else str(settings[name])
        return json.loads(json.dumps(plain(described | settings)))


@dataclass(frozen=True)
class Choices:
    """What was chosen from the data, the same for all subsamples but for the scatter.

    Attributes
    ----------
    pos_max, vel_max
        The grid reaches from minus to plus these; texts with a unit.
    n_bins
        Number of pixels along each direction.
    n_stars
        Number of stars in each group, on the grid or not.
    scatter
        Intrinsic scatter of each label in each group, by the label's name, bare.
    penalty
        Arguments of the default penalty.
    """

    pos_max: str
    vel_max: str
    n_bins: int
    n_stars: Sequence[int]
    scatter: Mapping[str, Sequence[float]] = field(default_factory=dict)
    penalty: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bins(self) -> dict[str, u.Quantity]:
        """The edges of the pixels."""
        edges = np.linspace(-1, 1, self.n_bins + 1)
        return {"pos": edges * u.Quantity(self.pos_max), "vel": edges * u.Quantity(self.vel_max)}

    def lines(self) -> list[str]:
        """Return the choices in words."""
        low, high = min(self.n_stars), max(self.n_stars)
        number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        penalty = self.penalty
        return [
            f"{len(self.n_stars)} groups of {number} stars",
            f"{self.n_bins} x {self.n_bins} pixels, |pos| < {self.pos_max}, |vel| < {self.vel_max}",
            f"penalty of all fits: label-l2 {penalty['label_l2_sigma']:g}, label-smooth "
            f"{penalty['label_smooth_sigma']:g}, density wall {penalty['dacc_strength']:g} with "
            f"softness {penalty['dacc_dpos_scale']:g} / Myr^2",
        ]


def recall(folder: str | os.PathLike[str], request: BatchRequest) -> Choices | None:
    """Return what was chosen when a folder of results was begun; None if it is new.

    Raises
    ------
    ValueError
        If the folder holds something else, or the results of another request; the message says
        which options differ.
    """
    folder = Path(folder)
    try:
        kept = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: choose a folder for the store") from None
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise ValueError(
                f"{folder} is not empty and no store of this command: choose another folder"
            ) from None
        return None
    except ValueError:
        raise ValueError(f"{folder / _FILE} is damaged: it is not JSON") from None
    old, new = kept["request"], request.describe()
    differences = [
        f"{_option(name)} {_say(old.get(name))}, not {_say(value)}"
        for name, value in new.items()
        if (old.get(name) or None) != (value or None)
    ]
    if differences:
        raise ValueError(
            f"the store {folder} was begun with {'; '.join(differences)}: take another folder to "
            "change that, or say the same to go on"
        )
    choices = kept["choices"]
    return Choices(**choices | {"penalty": with_numbers(choices["penalty"])})


def keep(folder: str | os.PathLike[str], request: BatchRequest, choices: Choices) -> Choices:
    """Note in a folder what was chosen, unless somebody was faster; return what holds."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if (known := recall(folder, request)) is not None:
        return known
    content = {"request": request.describe(), "choices": asdict(choices)}
    with replaced_file(Path(folder) / _FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return recall(folder, request) or choices


def _option(name: str) -> str:
    return _OPTIONS.get(name) or f"--{name.replace('_', '-')}"


def _say(value: object) -> str:
    if value is None or value in ([], {}):
        return "left out"
    if isinstance(value, list):
        return " and ".join(repr(x) for x in value)
    if isinstance(value, dict):
        return ",".join(f"{key}:{x}" for key, x in value.items())
    return str(value)
