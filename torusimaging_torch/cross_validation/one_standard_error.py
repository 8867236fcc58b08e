r"""The simplest of several candidates that predict held-out data as well as the best one.

Scores are means over the same held-out pixels, so candidates are compared in pairs: with the
log-likelihoods :math:`t_n` of a candidate and :math:`b_n` of the best one, and weights
:math:`w_n`, the difference of the scores and its standard error are

.. math::

    d = \frac{\sum_n w_n (b_n - t_n)}{\sum_n w_n}
    \qquad
    s^2 = \frac{N}{N - 1} \frac{\sum_n w_n^2 (b_n - t_n - d)^2}{(\sum_n w_n)^2}

(Vehtari, Gelman & Gabry 2017, Statistics and Computing 27, 1413, eq. 24). The noise that is common
to both drops out: the error of the difference is far smaller than those of the scores. The rule is
that of Breiman et al. (1984, Classification and Regression Trees, section 3.4.3), with this error:
a candidate with :math:`d \leq s` is as good as the best one, and the simplest of these is chosen.

The error takes the fits for given. Candidates whose fits are almost the same differ by hundredths
of a nat in all pixels together, and these move with the noise of what was fitted, which s leaves
out. A difference of less than a tenth of a nat therefore says nothing, whatever its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import QTable

from torusimaging_torch.arrays import Array
from torusimaging_torch.cross_validation.candidates import Candidate
from torusimaging_torch.results.penalty_description import plain

__all__ = ["Selection", "judge"]


# Nats in all pixels together. In repeated simulations of a disk, candidates with a median s of 0.03
# to 0.07 nats differed by 0.06 to 0.11 nats (robust standard deviations).
_INDISTINCT = 0.1


@dataclass(frozen=True, eq=False)
class Selection:
    """What cross-validation says of C candidates.

    Attributes
    ----------
    candidates
        The candidates, in the order of the grid.
    score
        Mean log-likelihood of a held-out pixel, in nats, below that of a perfect prediction, with
        shape (C,): minus half the mean squared residual in units of the error, or minus half the
        mean deviance of star counts. Nan if a fit failed.
    score_err
        Standard error of the score, with shape (C,).
    delta, delta_err
        How far the score is below the best one, and the standard error of this difference, with
        shape (C,).
    within
        Which candidates are as good as the best one, with shape (C,): no further below it than one
        standard error, or than 0.1 nats in all pixels together.
    fits_converged
        Number of fits that converged, with shape (C,), of ``n_fits``.
    n_fits
        Number of fits per candidate: folds times data sets.
    n_pixels, total_weight
        Number of held-out pixels, and the sum of their weights: times this, a score is the
        log-likelihood of all of them.
    best_index
        The candidate with the best score; None if none has one.
    chosen_index
        The simplest candidate that is as good as the best one.
    meta
        How the folds were made, in plain values.

    Examples
    --------
    >>> from torusimaging_torch.cross_validation import select
    >>> rest = {"model": "potential", "n_folds": 2, "progress": False}
    >>> found = select(data, {"n_components": [2, 3]}, **rest)
    >>> sorted(found.best), found.table.colnames[:2]
    (['e_knots', 'label_knots', 'model', 'n_components', 'units'], ['n_components', 'n_params'])
    """

    candidates: tuple[Candidate, ...]
    score: Array
    score_err: Array
    delta: Array
    delta_err: Array
    within: Array
    fits_converged: Array
    n_fits: int
    n_pixels: int
    total_weight: float
    best_index: int | None
    chosen_index: int | None
    meta: Mapping[str, object]

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.candidates)

    def __repr__(self) -> str:
        """Show how many candidates there are, and which is best and which chosen."""
        if self.best_index is None or self.chosen_index is None:
            return f"Selection: {len(self)} candidates, 0 with a score"
        n_good = int(self.within.sum())
        lines = [f"Selection: {len(self)} candidates, {n_good} as good as the best one"]
        for name, index in (("best", self.best_index), ("chosen", self.chosen_index)):
            varied = self.candidates[index].varied
            texts = [f"{key} = {write_setting(value)}" for key, value in varied.items()]
            lines.append(f"{name}: {'; '.join(texts)}")
        return "\n  ".join(lines)

    @property
    def n_params(self) -> Array:
        """Number of parameters of each candidate, with shape (C,)."""
        return np.array([candidate.n_params for candidate in self.candidates])

    @property
    def best(self) -> dict[str, Any]:
        """The settings with the best score, as ``**`` of `auto_init` or `fit_many`.

        Raises
        ------
        ValueError
            If no candidate has a score.
        """
        return self._settings(self.best_index)

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that are chosen, as ``**`` of `auto_init` or `fit_many`.

        Raises
        ------
        ValueError
            If no candidate has a score.
        """
        return self._settings(self.chosen_index)

    def _settings(self, index: int | None) -> dict[str, Any]:
        if index is None:
            raise ValueError(
                f"none of the {len(self)} candidates converged in all of its {self.n_fits} fits: "
                "see the table, and widen the grid or raise max_iter"
            )
        return dict(self.candidates[index].settings)

    @property
    def table(self) -> QTable:
        """One row for each candidate: its settings, scores and flags; settings of all in the meta.

        Scores are in nats per pixel. Dictionaries by order m are written as texts.
        """
        names = dict.fromkeys(name for c in self.candidates for name in c.varied)
        columns = {name: _column([c.settings.get(name) for c in self.candidates]) for name in names}
        rows = np.arange(len(self))
        table = QTable(
            columns
            | {
                "n_params": self.n_params,
                "score": self.score,
                "score_err": self.score_err,
                "delta": self.delta,
                "delta_err": self.delta_err,
                "fits_converged": self.fits_converged,
                "failed": self.fits_converged < self.n_fits,
                "within": self.within,
                "best": rows == self.best_index,
                "chosen": rows == self.chosen_index,
            }
        )
        same = {k: v for k, v in self.candidates[0].settings.items() if k not in names}
        table.meta = {**self.meta, "n_fits": self.n_fits, "n_pixels": self.n_pixels}
        table.meta["settings"] = plain(same)
        return table


def _column(values: Sequence[object]) -> Sequence[object]:
    if all(isinstance(value, (bool, int, float, str, np.number)) for value in values):
        return values
    return [write_setting(value) for value in values]


def write_setting(value: object) -> str:
    """Return a setting as a short text: "2: 8, 4: 4" for knots by order m."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {write_setting(item)}" for key, item in value.items())
    value = plain(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def judge(
    candidates: Sequence[Candidate],
    terms: Array,
    weight: Array,
    fits_converged: Array,
    n_fits: int,
    meta: Mapping[str, object] | None = None,
) -> Selection:
    """Choose by the rule of one standard error.

    Simplest is the candidate with the fewest parameters; among these that with the strongest
    penalty, which is the one with the smallest mean log of its scales (those named sigma), and then
    with the highest wall against negative densities; and among equally simple ones that with the
    best score.

    Parameters
    ----------
    candidates
        C candidates.
    terms
        Log-likelihood of each held-out pixel, with shape (C, N).
    weight
        Weight of each pixel, with shape (N,).
    fits_converged
        Number of fits that converged, with shape (C,).
    n_fits
        Number of fits that each had. A candidate with fewer converged ones has no score, and is
        not chosen.
    meta
        How the folds were made.
    """
    complete = np.asarray(fits_converged) == n_fits
    terms = np.where(complete[:, None], terms, np.nan)
    score, score_err = _mean(terms, weight)
    known = np.isfinite(score)
    best = int(np.argmax(np.where(known, score, -np.inf))) if known.any() else None
    delta = delta_err = np.full(len(candidates), np.nan)
    within = np.zeros(len(candidates), dtype=bool)
    chosen = None
    if best is not None:
        delta, delta_err = _mean(terms[best] - terms, weight)
        within = delta <= np.maximum(delta_err, _INDISTINCT / weight.sum())
        chosen = min(
            np.flatnonzero(within).tolist(), key=lambda i: (*_complexity(candidates[i]), -score[i])
        )
    return Selection(
        tuple(candidates),
        score,
        score_err,
        delta,
        delta_err,
        within,
        np.asarray(fits_converged),
        n_fits,
        len(weight),
        float(weight.sum()),
        best,
        chosen,
        dict(meta or {}),
    )


def _complexity(candidate: Candidate) -> tuple[float, ...]:
    return candidate.n_params, round(candidate.log_sigma, 9), -candidate.wall


def _mean(terms: Array, weight: Array) -> tuple[Array, Array]:
    """Return the weighted mean and its standard error, with shape (C,), of terms (C, N)."""
    n, total = len(weight), weight.sum()
    mean = (terms * weight).sum(-1) / total
    spread = (weight**2 * (terms - mean[:, None]) ** 2).sum(-1)
    return mean, np.sqrt(spread * n / max(n - 1, 1)) / total
