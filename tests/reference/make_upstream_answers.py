"""Make the stored answers of upstream's ``torusimaging`` 0.1 that the tests compare with.

Run it in an environment where ``torusimaging`` (JAX) can be imported::

    python tests/data/make_upstream_answers.py

It writes ``upstream_answers.npz``, ``upstream_label_functions.npz`` and ``upstream_binned.npz``
beside itself. The problems are random but seeded and need NumPy alone (`make_problem`), so that the
tests can also draw fresh ones and ask upstream about them at once (`upstream_answers`).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]

EVEN_ORDERS = [(2,), (2, 4), (2, 4, 6)]
ODD_ORDERS = [(1,), (3,), (1, 2), (2, 3), (1, 2, 3), (1, 3)]
N_EVEN = 20
# Coordinates are stored for this many points of each problem, labels for all: that saves space.
N_GEOMETRY = 100
# Settings of the default penalty besides the sigmas: (dacc_strength, dacc_dpos_scale). The first is
# upstream's default; the larger scales bring the softplus into play where the density is positive.
PENALTIES = [(1.0, 1e-4), (0.0, 1e-4), (1.0, 3e-3), (1e2, 1e-2)]


def on_grid(x: np.ndarray, bits: int) -> np.ndarray:
    """Round to multiples of 2**-bits: exact in binary, and such numbers compress well."""
    return np.round(x * 2.0**bits) / 2.0**bits


def make_problem(
    seed: int, orders: tuple[int, ...], n_points: int = 200, n_knots: tuple[int, int] = (3, 8)
) -> Arrays:
    """Draw a model, its parameters and data, as a flat dictionary of arrays.

    Splines have from ``n_knots[0]`` to ``n_knots[1]`` knots: upstream takes long to compile many.

    Knots and distortions are random but sane: the e functions stay small enough for orbits not to
    cross. Points reach 1.3 times as far as the knots.
    """
    rng = np.random.default_rng([2024, seed])
    problem: Arrays = {"orders": np.array(orders), "seed": np.array(seed)}
    r_max = rng.uniform(0.25, 0.45)
    n_label = int(rng.integers(*n_knots, endpoint=True))
    problem["label_knots"] = _knots(rng, r_max, n_label)
    for m in orders:
        n = int(rng.integers(*n_knots, endpoint=True))
        problem[f"e_knots_{m}"] = _knots(rng, r_max, n)
        problem[f"e_sign_{m}"] = np.array(rng.choice([-1.0, 1.0]))
        size = rng.uniform(0.02, 0.25) / m**1.5
        problem[f"e_vals_{m}"] = np.log(size / r_max * rng.uniform(0.3, 1.7, n - 1))
    problem["pos0"] = np.array(rng.uniform(-0.15, 0.15))
    problem["vel0"] = np.array(rng.uniform(-0.01, 0.01))
    problem["ln_Omega0"] = np.array(rng.uniform(np.log(0.03), np.log(0.12)))
    _add_labels(problem, rng, r_max, n_label)
    _add_data(problem, rng, r_max, n_points)
    for m in orders:
        problem[f"e_l2_sigma_{m}"] = np.array(rng.uniform(0.2, 1.0))
        problem[f"e_smooth_sigma_{m}"] = np.array(rng.uniform(0.1, 1.0))
    problem["label_l2_sigma"] = np.array(rng.uniform(0.5, 2.0))
    problem["label_smooth_sigma"] = np.array(rng.uniform(0.2, 1.0))
    return problem


def _knots(rng: np.random.Generator, r_max: float, n: int) -> np.ndarray:
    power = rng.choice([0.5, 0.75, 1.0])
    return np.linspace(0, r_max**power, n) ** (1 / power)


def _add_labels(problem: Arrays, rng: np.random.Generator, r_max: float, n: int) -> None:
    slopes = rng.normal(0, 1) + rng.normal(0, 0.5, n - 1)  # often of both signs
    problem["label_vals"] = np.concatenate([[rng.normal(0, 0.3)], slopes])
    # The Poisson likelihood's label is the log of the expected counts: falling from about 50.
    falling = -rng.uniform(0.5, 1.5, n - 1) * 3 / r_max
    problem["ln_counts_vals"] = np.concatenate([[rng.uniform(3, 4.5)], falling])


def _add_data(problem: Arrays, rng: np.random.Generator, r_max: float, n: int) -> None:
    root = np.exp(problem["ln_Omega0"] / 2)
    radius = 1.3 * r_max * np.sqrt(rng.uniform(0, 1, n))
    angle = rng.uniform(-np.pi, np.pi, n)
    problem["pos"] = on_grid(problem["pos0"] + radius * np.sin(angle) / root, 14)
    problem["vel"] = on_grid(problem["vel0"] + radius * np.cos(angle) * root, 18)
    problem["label"] = on_grid(rng.normal(0, 0.5, n), 12)
    problem["label_err"] = on_grid(rng.uniform(0.05, 0.5, n), 12)
    problem["counts"] = rng.poisson(50 * np.exp(-3 * radius / r_max)).astype(float)
    problem["acc_pos"] = on_grid(problem["pos0"] + rng.uniform(-1.3, 1.3, 40) * r_max / root, 14)


def vary(problem: Arrays, seed: int) -> Arrays:
    """Return a problem with other parameters and the same model and data."""
    rng = np.random.default_rng([2025, seed])
    names = ["pos0", "vel0", "ln_Omega0", "label_vals", "ln_counts_vals"]
    names += [f"e_vals_{m}" for m in problem_orders(problem)]
    return problem | {key: problem[key] + 0.1 * problem[key] * rng.normal() for key in names}


def problem_orders(problem: Arrays) -> list[int]:
    """Return the orders m of a problem."""
    return [int(m) for m in problem["orders"]]


def problem_params(problem: Arrays, label: str = "label_vals") -> dict[str, Any]:
    """Return the nested parameter dictionary of a problem."""
    return {
        "pos0": problem["pos0"],
        "vel0": problem["vel0"],
        "ln_Omega0": problem["ln_Omega0"],
        "e_params": {m: {"vals": problem[f"e_vals_{m}"]} for m in problem_orders(problem)},
        "label_params": {"label_vals": problem[label]},
    }


def problem_penalty(problem: Arrays, i: int) -> dict[str, Any]:
    """Return the keyword arguments of the default penalty, in its ``i``-th setting."""
    orders = problem_orders(problem)
    strength, scale = PENALTIES[i]
    return {
        "label_l2_sigma": float(problem["label_l2_sigma"]),
        "label_smooth_sigma": float(problem["label_smooth_sigma"]),
        "e_l2_sigmas": {m: float(problem[f"e_l2_sigma_{m}"]) for m in orders},
        "e_smooth_sigmas": {m: float(problem[f"e_smooth_sigma_{m}"]) for m in orders},
        "dacc_dpos_scale": scale,
        "dacc_strength": strength,
    }


def problem_model(problem: Arrays) -> dict[str, Any]:
    """Return the constructor's arguments: label_knots, e_knots and e_signs."""
    orders = problem_orders(problem)
    return {
        "label_knots": problem["label_knots"],
        "e_knots": {m: problem[f"e_knots_{m}"] for m in orders},
        "e_signs": {m: float(problem[f"e_sign_{m}"]) for m in orders},
    }


def gaussian_data(problem: Arrays) -> Arrays:
    """Return the keyword arguments of the Gaussian objective."""
    return {key: problem[key] for key in ("pos", "vel", "label", "label_err")}


def poisson_data(problem: Arrays) -> Arrays:
    """Return the keyword arguments of the Poisson objective."""
    return {key: problem[key] for key in ("pos", "vel", "counts")}


def upstream_answers(problem: Arrays) -> Arrays:
    """Ask upstream about one problem; JAX must be in double precision."""
    return ask_upstream(problem)(problem)


def ask_upstream(model: Arrays) -> Callable[[Arrays], Arrays]:
    """Return a function that asks upstream about a problem with this model's knots and penalty.

    All is compiled at once, since upstream's functions one by one take longer; problems with the
    same model and number of points share it. With an odd order accelerations and all that depends
    on them are left out: there upstream 0.1 takes a root of -1.
    """
    import jax

    static = ("orders", "seed", "knots", "sign", "sigma")
    fixed = {key: x for key, x in model.items() if any(word in key for word in static)}
    compiled = jax.jit(lambda traced: _upstream_answers(fixed | traced))

    def ask(problem: Arrays) -> Arrays:
        answers = compiled({key: x for key, x in problem.items() if key not in fixed})
        return {key: np.asarray(value) for key, value in answers.items()}

    return ask


def _upstream_answers(problem: Arrays) -> dict[str, Any]:
    params = problem_params(problem)
    pos, vel = problem["pos"], problem["vel"]
    model = _upstream_model(problem)
    r_e, theta_e = model._get_elliptical_coords(
        pos[:N_GEOMETRY],
        vel[:N_GEOMETRY],
        **{key: params[key] for key in ("pos0", "vel0", "ln_Omega0")},
    )
    answers = {
        "r_e": r_e,
        "theta_e": theta_e,
        "r": model._get_r(r_e, theta_e, params["e_params"]),
        "label": model._get_label(pos, vel, params),
        **{f"e_{m}": e for m, e in model._get_es(r_e, params["e_params"]).items()},
        **_slopes(model, "ln_{}_likelihood", problem),
    }
    if all(m % 2 == 0 for m in problem_orders(problem)):
        # Each problem's objectives take one of the penalties in turn.
        setting = int(problem["seed"]) % len(PENALTIES)
        answers |= _accelerations(model, problem) | _penalties(model, problem)
        answers |= _slopes(_upstream_model(problem, setting), "objective_{}", problem)
    return answers


def _upstream_model(problem: Arrays, setting: int | None = None) -> Any:
    from torusimaging import TorusImaging1DSpline
    from torusimaging.model_spline import regularization_func_default

    penalty = None
    if setting is not None:
        penalty = partial(regularization_func_default, **problem_penalty(problem, setting))
    return TorusImaging1DSpline(**problem_model(problem), regularization_func=penalty)


def _slopes(model: Any, method: str, problem: Arrays) -> dict[str, Any]:
    """Return values and gradients, the latter as vectors in JAX's (sorted-key) order."""
    import jax
    from jax.flatten_util import ravel_pytree

    answers = {}
    for name, label, data in (
        ("gaussian", "label_vals", gaussian_data(problem)),
        ("poisson", "ln_counts_vals", poisson_data(problem)),
    ):
        function = jax.value_and_grad(getattr(model, method.format(name)))
        value, slope = function(problem_params(problem, label), **data)
        answers[method.format(name)] = value
        answers[method.format(name) + "_grad"] = ravel_pytree(slope)[0]
    return answers


def _accelerations(model: Any, problem: Arrays) -> dict[str, Any]:
    import jax

    params, pos = problem_params(problem), problem["acc_pos"]
    return {
        "acc": jax.vmap(model._get_acc, in_axes=(0, None))(pos, params),
        "dacc": model._get_dacc_dpos_vmap(pos, params),
    }


def _penalties(model: Any, problem: Arrays) -> dict[str, Any]:
    import jax.numpy as jnp
    from torusimaging.model_spline import regularization_func_default

    params = problem_params(problem)
    settings = [problem_penalty(problem, i) for i in range(len(PENALTIES))]
    values = [regularization_func_default(model, params, **kwargs) for kwargs in settings]
    return {"penalties": jnp.array(values)}


def label_function_cases(seed: int = 5, n: int = 40) -> dict[str, Arrays]:
    """Return random arguments for each of upstream's function families, by name.

    Amplitudes, exponents and scales have shape (3, 1), points (n,): they broadcast.
    """
    rng = np.random.default_rng(seed)

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (3, 1))

    x = np.sort(rng.uniform(0.0, 1.0, n))
    t = np.sort(rng.uniform(-1.0, 1.5, n))
    knots = np.cumsum(rng.uniform(0.02, 0.2, 6)) - 0.05
    logistic = {"t0": draw(-0.5, 0.5), "B": draw(-6, 6), "C": draw(0.3, 2), "nu": draw(0.3, 3)}
    power = {"alpha": draw(0.1, 0.9), "x0": draw(1.05, 2)}
    tanh = {"alpha": draw(0.2, 2.5), "x0": draw(0.1, 2)}
    return {
        "monotonic_poly_func": {"x": x, "A": draw(-2, 2), **power, "c": draw(-1, 2)},
        "monotonic_poly_func_alt": {
            "x": x, "f0": draw(-1, 1), "fx": draw(-1, 1), **power, "xval": draw(0.3, 1)
        },
        "custom_tanh_func": {"x": x, "A": draw(-2, 2), **tanh},
        "custom_tanh_func_alt": {"x": x, "f_xval": draw(-2, 2), **tanh, "xval": draw(0.3, 1)},
        "generalized_logistic_func": {"t": t, "A": draw(-1, 1), "K": draw(-1, 1), **logistic},
        "generalized_logistic_func_alt": {
            "t": t, "F1": draw(-2, 2), **logistic, "t1": draw(0.7, 1.3)
        },
        "monotonic_quadratic_spline": {
            "x": knots, "y": rng.normal(0, 1, len(knots)), "x_eval": rng.uniform(-0.2, 1.2, n)
        },
    }  # fmt: skip


def upstream_label_functions() -> Arrays:
    """Ask upstream for its function families at `label_function_cases`."""
    from torusimaging import model_helpers

    out: Arrays = {}
    for name, arguments in label_function_cases().items():
        out |= {f"{name}/{key}": value for key, value in arguments.items()}
        out[f"{name}/answer"] = np.asarray(getattr(model_helpers, name)(**arguments))
    return out


def binned_stars(seed: int = 11, n: int = 6000) -> Arrays:
    """Return stars of a simple isothermal disk with a label that rises with elliptical radius."""
    rng = np.random.default_rng(seed)
    pos, vel = on_grid(rng.normal(0, 0.4, n), 10), on_grid(rng.normal(0, 0.03, n), 14)
    r_e = np.hypot(pos * np.sqrt(0.08), vel / np.sqrt(0.08))
    label_err = on_grid(rng.uniform(0.02, 0.1, n), 10)
    label = on_grid(0.05 + 0.8 * r_e + rng.normal(0, 0.05, n) + label_err * rng.normal(0, 1, n), 10)
    return {
        "pos": pos, "vel": vel, "label": label, "label_err": label_err,
        "pos_edges": on_grid(np.linspace(-1.2, 1.2, 17), 10) + 2.0**-12,
        "vel_edges": on_grid(np.linspace(-0.09, 0.09, 15), 14) + 2.0**-16,
    }  # fmt: skip


def upstream_binned() -> Arrays:
    """Ask upstream to bin `binned_stars`: counts, labels with s given, with errors too, Omega."""
    import astropy.units as u
    from gala.units import galactic
    from torusimaging.data import estimate_Omega, get_binned_counts, get_binned_label

    stars = binned_stars()
    pos, vel = stars["pos"] * u.kpc, stars["vel"] * u.kpc / u.Myr
    bins = {"pos": stars["pos_edges"] * u.kpc, "vel": stars["vel_edges"] * u.kpc / u.Myr}
    label, label_err = stars["label"], stars["label_err"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty pixels
        results = {
            "counts": get_binned_counts(pos, vel, bins, units=galactic),
            "scatter": get_binned_label(pos, vel, label, bins, units=galactic, s=0.06),
            "estimated": get_binned_label(pos, vel, label, bins, units=galactic, s_N_thresh=32),
            "errors": get_binned_label(
                pos, vel, label, bins, label_err=label_err, units=galactic, s=0.05
            ),
        }
    out = dict(stars)
    for name, binned in results.items():
        out |= {f"{name}/{key}": getattr(x, "value", np.asarray(x)) for key, x in binned.items()}
    for name in ("scatter", "errors"):
        out[f"{name}/Omega"] = np.asarray(estimate_Omega(results[name]).decompose(galactic).value)
    return out


def pack(arrays: Arrays) -> Arrays:
    """Join many small arrays into one: an npz file takes more for each than they hold."""
    return {
        "names": np.array(list(arrays)),
        "shapes": np.array([str(np.shape(x)) for x in arrays.values()]),
        "values": np.concatenate([np.ravel(x) for x in arrays.values()]).astype(float),
    }


def unpack(packed: Arrays) -> Arrays:
    """Return the arrays that `pack` joined, all of them floats."""
    shapes = [ast.literal_eval(str(shape)) for shape in packed["shapes"]]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    pieces = np.split(packed["values"], ends[:-1])
    names = (str(name) for name in packed["names"])
    return {n: x.reshape(shape) for n, x, shape in zip(names, pieces, shapes, strict=True)}


def all_problems() -> dict[str, Arrays]:
    """Return the problems that are stored: 20 with even orders, 6 with odd ones."""
    even = {f"even{i:02d}": make_problem(i, EVEN_ORDERS[i % 3]) for i in range(N_EVEN)}
    odd = {f"odd{i}": make_problem(100 + i, m, 100) for i, m in enumerate(ODD_ORDERS)}
    return even | odd


def _stored_problems() -> Arrays:
    out: Arrays = {}
    for name, problem in all_problems().items():
        answers = upstream_answers(problem)
        bad = [key for key, value in answers.items() if not np.all(np.isfinite(value))]
        if bad:
            raise RuntimeError(f"upstream's answer is not finite for {name}: {bad}")
        out |= {f"{name}/{key}": value for key, value in problem.items()}
        out |= {f"{name}/answer/{key}": value for key, value in answers.items()}
        print(name, problem["orders"].tolist(), flush=True)
    return pack(out)


def main() -> None:
    """Write the three files."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is what takes the time
    files: dict[str, Callable[[], Arrays]] = {
        "upstream_label_functions.npz": upstream_label_functions,
        "upstream_binned.npz": upstream_binned,
        "upstream_answers.npz": _stored_problems,
    }
    for name, make in files.items():
        np.savez_compressed(HERE / name, **make())  # type: ignore[arg-type]
        print(name, f"{(HERE / name).stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
