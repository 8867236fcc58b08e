"""What is for one data set says so where several come, and what is not there is named."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch import TorusImaging1DPotential, plot
from torusimaging_torch.data import estimate_Omega, get_binned_counts, get_binned_label
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way_disk

KINDS = {"fe_h": "gaussian", "counts": "poisson"}
BINS = {"pos": np.linspace(-1.2, 1.2, 16) * u.kpc, "vel": np.linspace(-70, 70, 16) * u.km / u.s}


class Fitted:
    """A fit of labels and counts together, and one of the labels alone."""

    def __init__(self):
        self.stars = milky_way_disk(8000, seed=1)
        z, v = self.stars["z"], self.stars["v_z"]
        label = get_binned_label(z, v, self.stars["label"], BINS, label_err=self.stars["label_err"])
        self.label, self.counts = label, get_binned_counts(z, v, BINS)
        self.data = {"fe_h": label, "counts": self.counts}
        self.model, self.bounds, start = TorusImaging1DPotential.auto_init(self.data)
        self.params, state = self.model.optimize(start, KINDS, self.bounds, data=self.data)
        self.result = FitResult(self.model, self.params, self.bounds, state, KINDS, {})
        self.one, self.one_bounds, self.start = TorusImaging1DPotential.auto_init(label)


@pytest.fixture(scope="module")
def fitted():
    return Fitted()


ONE_DATA_SET = r"one data set, with pos and vel, got \['counts', 'fe_h'\]; of several pass one"
ONE_LABEL = r"labels of \['counts', 'fe_h'\]: ask one, as model.part\('counts'\)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: plot.plot_data_model_residual(f.data, f.model, f.params), ONE_DATA_SET),
        (lambda f: plot.plot_action_contours(f.data, f.model, f.params), ONE_DATA_SET),
        (lambda f: f.result.predict(f.data), ONE_DATA_SET),
        (lambda f: estimate_Omega(f.data), ONE_DATA_SET),
        (lambda f: plot.plot_spline_functions(f.model, f.params), ONE_LABEL),
        (lambda f: f.model.label_knots, ONE_LABEL),
        (lambda f: f.model.at_knots(f.params), ONE_LABEL),
        (lambda f: f.result.predict(f.label), ONE_LABEL),
        (
            lambda f: TorusImaging1DPotential.auto_init(
                f.counts | {"counts": np.zeros_like(f.counts["counts"])}
            ),
            "no star is counted in any pixel",
        ),
        (
            lambda f: f.one.sample(f.label, f.start, f.one_bounds, hold=list(NAMES)),
            "all parameters are held: there is nothing to sample",
        ),
        (
            lambda f: f.one.posterior_at(
                {**f.start, "ln_rho": f.start["ln_rho"][:-1]}, f.label, evaluation="torch"
            ),
            "ln_rho is 6 numbers, not 7 numbers",
        ),
        (
            lambda f: f.one.fit_outliers(f.start, f.stars, BINS, f.one_bounds),
            "stars must have pos, vel and label, got no pos, vel",
        ),
    ],
)
def test_it_is_said_what_to_do(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)


NAMES = ("pos0", "vel0", "ln_rho", "label_params.label_vals")


def test_parts_do(fitted):
    part = fitted.result.part("fe_h")
    assert part.predict(fitted.label).shape == (15, 15)
    fig, _ = plot.plot_data_model_residual(fitted.label, part.model, part.params, pyplot=False)
    assert len(fig.axes) > 2


def test_who_worked_it_out_is_in_the_file(fitted, tmp_path):
    fitted.result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    assert again.state.evaluation == fitted.result.state.evaluation != ""
