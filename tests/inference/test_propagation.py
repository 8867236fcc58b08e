"""What errors of parameters do to what is computed from them, against closed forms."""

from __future__ import annotations

import torch

from torusimaging_torch.inference.propagation import moved_by, propagated, room, vanished
from torusimaging_torch.numerics.box import Box

BOX = Box(torch.tensor([-16.0, -16.0, -1.0]).double(), torch.tensor([10.0, 10.0, 1.0]).double())
LOGS = torch.tensor([True, True, False])


def test_what_an_unknown_parameter_has_a_say_in_has_no_error():
    jacobian = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 1e-30]]).double()
    covariance = torch.diag(torch.tensor([1.0, 1.0, torch.nan])).double()
    error = propagated(jacobian, covariance)
    assert error[0] == 5
    assert error[1].isnan()
    still = torch.tensor([False, False, True])
    assert propagated(jacobian, covariance, still).tolist() == [5, 1]
    known = torch.diag(torch.tensor([1.0, 1.0, 0.0])).double()
    both = propagated(jacobian.expand(2, 2, 3), torch.stack([covariance, known]))
    assert both.isnan().tolist() == [[False, True], [False, False]]


def test_a_small_step_is_the_step_itself():
    x, step = torch.tensor([-3.0, 2.0, 0.5]).double(), torch.tensor([1e-6, -2e-6, 0.1]).double()
    torch.testing.assert_close(moved_by(x, step, LOGS) - x, step, rtol=1e-5, atol=0)


def test_log_slopes_move_like_slopes_and_keep_their_box():
    x = torch.tensor([-15.0, 9.9, 0.5]).double()
    up = moved_by(x, torch.tensor([114.0, 114.0, 3.0]).double(), LOGS, BOX)
    assert abs(up[0] - (x[0] + torch.tensor(115.0).log())) < 0.1
    assert up[1:].tolist() == [10, 3.5]
    down = moved_by(x, torch.tensor([-114.0, -114.0, 0.0]).double(), LOGS, BOX)
    assert down[:2].tolist() == [-16, -16]


def test_log_slopes_on_their_lower_bound_have_vanished():
    x = torch.tensor([[-15.9, 9.9, -1.0], [-15.0, -16.0, 0.0]]).double()
    assert vanished(x, BOX, LOGS).tolist() == [[True, False, False], [False, True, False]]
    nothing = Box(torch.full((3,), -torch.inf), torch.full((3,), torch.inf))
    assert not vanished(x, nothing, LOGS).any()


def test_a_log_slope_has_the_room_of_its_slope():
    x = torch.tensor([-9.0, 9.5, 0.5]).double()
    low, high = 2.718281828459045**-16, 2.718281828459045**10
    expected = torch.tensor([(high - low) / 2.718281828459045**y for y in (-9, 9.5)] + [2.0])
    torch.testing.assert_close(room(x, BOX, LOGS), expected.double(), rtol=1e-6, atol=0)
    held = Box(x, x)
    assert (room(x, held, LOGS) == 0).all()
    nothing = Box(torch.full((3,), -torch.inf), torch.full((3,), torch.inf))
    assert room(x, nothing, LOGS).isinf().all()
