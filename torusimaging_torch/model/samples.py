"""Posterior samples: what `sample` returns, with all that tells whether to believe them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.inference.convergence import ess_bulk, ess_tail, rhat
from torusimaging_torch.inference.nuts import Chains
from torusimaging_torch.numerics.params import Layout, Nested, iter_leaves, map_leaves, path_name
from torusimaging_torch.units import unit_of

__all__ = ["SamplerState", "Samples"]

# Vehtari et al. (2021): below these, quantiles can be reported.
_MAX_RHAT = 1.01
_MIN_ESS = 100  # per chain


@dataclass(frozen=True)
class SamplerState:
    """What upstream's users look at in the state of a sampler.

    Attributes
    ----------
    logdensity
        ln L - R + ln prior of each sample, with shape (S,).
    position
        The samples, a dictionary whose leaves have them along their first dimension.
    samples
        Everything else.
    """

    logdensity: Tensor
    position: Nested
    samples: Samples


class Samples:
    """Samples of the posterior of one problem.

    Attributes
    ----------
    chains
        Parameters of all chains as vectors, log-densities and what was counted.
    layout
        How parameters are laid out in a vector.
    units
        The model's unit system.
    """

    def __init__(self, chains: Chains, layout: Layout, units: UnitSystem) -> None:
        self.chains = chains
        self.layout = layout
        self.units = units

    def __len__(self) -> int:
        """Return the number of samples, of all chains together."""
        return self.chains.log_density.numel()

    def __repr__(self) -> str:
        """Show how many samples there are, and what speaks against them."""
        end = f"not converged ({'; '.join(self.problems)})" if self.problems else "converged"
        what = f"{len(self)} of {len(self.names)} parameters, {len(self.chains.x)} chain(s)"
        return f"Samples: {what}, {end}"

    @property
    def names(self) -> list[str]:
        """The name of each parameter."""
        return self.layout.names

    @cached_property
    def params(self) -> Nested:
        """The samples as one dictionary, along the first dimension of its leaves."""
        return self.layout.unflatten(self.chains.x.flatten(0, 1))

    @property
    def log_density(self) -> Tensor:
        """The log-density ln L - R + ln prior of each sample, with shape (S,)."""
        return self.chains.log_density.flatten()

    @cached_property
    def rhat(self) -> Tensor:
        """R-hat of each parameter, with shape (P,); nan for one that never moved."""
        return rhat(self.chains.x)

    @cached_property
    def ess_bulk(self) -> Tensor:
        """Effective sample size for means and medians, with shape (P,)."""
        return ess_bulk(self.chains.x)

    @cached_property
    def ess_tail(self) -> Tensor:
        """Effective sample size for the 5 % and 95 % quantiles, with shape (P,)."""
        return ess_tail(self.chains.x)

    @property
    def problems(self) -> list[str]:
        """What speaks against these samples; empty if they have converged."""
        found = []
        divergences = int(self.chains.divergences.sum())
        worst = float(self.rhat.nan_to_num(1.0).max())
        ess = float(torch.minimum(self.ess_bulk, self.ess_tail).nan_to_num(torch.inf).min())
        enough = _MIN_ESS * len(self.chains.x)
        stuck = int((self.chains.x == self.chains.x[:, :1]).all(-1).all(-1).sum())
        if stuck:
            found.append(f"{stuck} of {len(self.chains.x)} chains never moved")
        if divergences:
            found.append(f"{divergences} divergent trajectories")
        if worst > _MAX_RHAT:
            name = self.names[int(self.rhat.nan_to_num(1.0).argmax())]
            found.append(f"R-hat {worst:.3f} of {name} above {_MAX_RHAT}")
        if ess < enough:
            found.append(f"effective sample size {ess:.0f} below {enough}")
        return found

    def diagnostics(self) -> dict[str, Any]:
        """Return the numbers that say whether to believe the samples: the worst of each."""
        return {
            "n_samples": len(self),
            "n_chains": len(self.chains.x),
            "max_rhat": float(self.rhat.nan_to_num(1.0).max()),
            "min_ess_bulk": float(self.ess_bulk.nan_to_num(torch.inf).min()),
            "min_ess_tail": float(self.ess_tail.nan_to_num(torch.inf).min()),
            "divergences": int(self.chains.divergences.sum()),
            "problems": self.problems,
        }

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the samples."""
        return not self.problems

    def warn(self, stacklevel: int = 3) -> None:
        """Warn if the samples have not converged."""
        if self.problems:
            warnings.warn(
                f"the sampler has not converged ({'; '.join(self.problems)}): take more samples "
                "or more warm-up",
                RuntimeWarning,
                stacklevel=stacklevel,
            )

    def to_list(self) -> list[Nested]:
        """Return one parameter dictionary per sample."""
        return [map_leaves(lambda leaf, i=i: leaf[i], self.params) for i in range(len(self))]

    def to_array(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Return samples of the named parameters, all by default, with shape (S, len(names)).

        Raises
        ------
        ValueError
            If a name is not one of a parameter.
        """
        if isinstance(names, str) or not isinstance(names, (Sequence, type(None))):
            raise TypeError(f"names must be a list of names of parameters, got {names!r}")
        names = self.names if names is None else list(names)
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"no parameter is called {unknown}: expected some of {self.names}")
        columns = [self.names.index(name) for name in names]
        return self.chains.x.flatten(0, 1)[:, columns].cpu().numpy()

    def to_table(self) -> QTable:
        """Return a table with a row for each sample: chain, log-density and all parameters."""
        n_chains, n_draws = self.chains.log_density.shape
        table = QTable({"chain": np.repeat(np.arange(n_chains), n_draws)})
        table["log_density"] = self.log_density.cpu().numpy()
        units = {"pos0": unit_of("length", self.units), "vel0": unit_of("velocity", self.units)}
        for name, column in zip(self.names, self.to_array().T, strict=True):
            table[name] = column << units[name] if name in units else column
        return table

    def summary(self) -> QTable:
        """Return mean, standard deviation, R-hat and effective sample sizes of each parameter."""
        x = self.chains.x.flatten(0, 1)
        columns = {
            "mean": x.mean(0),
            "std": x.std(0),
            "r_hat": self.rhat,
            "ess_bulk": self.ess_bulk,
            "ess_tail": self.ess_tail,
        }
        table = QTable({"parameter": self.names})
        for name, values in columns.items():
            table[name] = values.cpu().numpy()
        return table

    def to_arviz(self) -> Any:
        """Return the samples as arviz takes them; needs the extra ``[arviz]``.

        Vectors of parameters stay vectors; the log-density is ``sample_stats.lp``.
        """
        import arviz

        leaves = self.layout.unflatten(self.chains.x)
        posterior = {path_name(path): leaf.cpu().numpy() for path, leaf in iter_leaves(leaves)}
        stats = {"lp": self.chains.log_density.cpu().numpy()}
        groups = {"posterior": posterior, "sample_stats": stats}
        # arviz 1 takes the groups as one dictionary, earlier ones as keywords.
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict(groups)
        return arviz.from_dict(**groups)
