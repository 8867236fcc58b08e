"""What the tests of figures share: their units, and figures drawn for real."""

from __future__ import annotations

import io

import astropy.units as u
import numpy as np
import torch

KMS = u.km / u.s
R_MAX = 0.3


def to_numpy(values):
    return values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def render(fig):
    """Draw for real: the test run turns any warning into a failure."""
    fig.savefig(io.BytesIO(), format="png", dpi=30)
