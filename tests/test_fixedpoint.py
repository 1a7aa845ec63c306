"""The chip's arithmetic, against its rules written out in plain Python and against Lava's own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from neurodeploy.targets.loihi.target import (
    BIAS_MAX,
    BIAS_MIN,
    STATE_MAX,
    THRESHOLD_MAX,
    as_lava_reads,
    decayed,
    is_mixed,
    saturated,
    width_of,
    wrapped,
)

STATES = st.integers(-STATE_MAX, STATE_MAX)
DECAYS = st.integers(0, 4096)
SMALL_SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)


def weights(low: int, high: int, step: int = 1) -> st.SearchStrategy[NDArray[np.int64]]:
    """Matrices of multiples of `step` within low..high."""
    return hnp.arrays(np.int64, SMALL_SHAPES, elements=st.integers(-(-low // step), high // step).map(lambda n: n * step))


POWERS = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])
ANY_WEIGHTS = st.one_of(
    weights(0, 255),
    weights(-255, 0),
    weights(-256, 254, 2),
    POWERS.flatmap(lambda step: weights(0, 255, step)),
    POWERS.flatmap(lambda step: weights(-255, 0, step)),
    POWERS.flatmap(lambda step: weights(-256, 254, step)),
    weights(-400, 400),
)


# ---------------------------------------------------------------------------------------------- decay, wrap, saturate


@given(x=STATES, decay=DECAYS)
def test_a_decay_takes_its_share_of_the_magnitude_and_rounds_towards_zero(x: int, decay: int) -> None:
    sign = (x > 0) - (x < 0)
    assert int(decayed(np.array(x), decay)) == sign * ((abs(x) * (4096 - decay)) >> 12)


@given(x=STATES, decay=DECAYS)
def test_the_silicon_takes_away_the_rounded_up_rest_which_is_the_same(x: int, decay: int) -> None:
    """Brian2Loihi, errorless against a chip (Michaelis et al. 2022): a decay takes away ceil(|x| d / 4096)."""
    taken = -(-abs(x) * decay // 4096)
    assert abs(int(decayed(np.array(x), decay))) == abs(x) - taken


@given(x=STATES)
def test_a_decay_of_4096_forgets_all_and_one_of_0_nothing(x: int) -> None:
    assert int(decayed(np.array(x), 4096)) == 0
    assert int(decayed(np.array(x), 0)) == x


@pytest.mark.parametrize(
    ("current", "left"),
    [
        (0, 0),
        (STATE_MAX, STATE_MAX),
        (STATE_MAX + 1, -STATE_MAX + 1),
        (-STATE_MAX, STATE_MAX),
        (-STATE_MAX + 1, -STATE_MAX + 1),
        (2 * STATE_MAX, 0),
    ],
)
def test_a_current_past_its_24_bits_comes_round(current: int, left: int) -> None:
    assert int(wrapped(np.array(current))) == left


@given(current=st.integers(-3 * STATE_MAX + 1, 3 * STATE_MAX))
def test_coming_round_changes_a_current_by_whole_turns_only(current: int) -> None:
    once = int(wrapped(np.array(current)))
    assert -STATE_MAX < once <= STATE_MAX
    assert (once - current) % (2 * STATE_MAX) == 0


@pytest.mark.parametrize(
    ("voltage", "left"),
    [(7, 7), (STATE_MAX, STATE_MAX - 1), (STATE_MAX - 1, STATE_MAX - 1), (-STATE_MAX, 1 - STATE_MAX), (-(10**9), 1 - STATE_MAX)],
)
def test_a_membrane_past_its_24_bits_stays_at_the_edge(voltage: int, left: int) -> None:
    assert int(saturated(np.array(voltage))) == left


@pytest.mark.lava_here
@given(
    u=STATES, v=STATES, du=st.integers(0, 4095), dv=DECAYS, a=st.integers(-300_000, 300_000), bias=st.integers(BIAS_MIN, BIAS_MAX)
)
@example(u=STATE_MAX, v=STATE_MAX - 1, du=0, dv=0, a=1, bias=BIAS_MAX)
@example(u=-STATE_MAX, v=1 - STATE_MAX, du=0, dv=0, a=-1, bias=BIAS_MIN)
def test_one_step_is_lavas_own(u: int, v: int, du: int, dv: int, a: int, bias: int) -> None:
    """Lava adds one to its du register, so its du is the decay less one."""
    from lava.proc.lif.models import AbstractPyLifModelFixed

    theirs: Any = SimpleNamespace(
        u=np.array([u], dtype=np.int32), v=np.array([v], dtype=np.int32), du=du, dv=dv, ds_offset=1, dm_offset=0,
        effective_bias=np.array([bias << 6]), max_uv_val=STATE_MAX, decay_shift=12, decay_unity=4096, act_shift=6,
    )  # fmt: skip
    AbstractPyLifModelFixed.subthr_dynamics(theirs, np.array([a], dtype=np.int32))

    our_u = wrapped(decayed(np.array([u]), du + 1) + (np.array([a]) << 6))
    our_v = saturated(decayed(np.array([v]), dv) + our_u + (bias << 6))
    assert (our_u.tolist(), our_v.tolist()) == (theirs.u.tolist(), theirs.v.tolist())


@pytest.mark.lava_here
def test_the_registers_are_as_wide_as_lavas() -> None:
    from lava.proc.lif.models import AbstractPyLifModelFixed, PyLifModelBitAcc

    assert PyLifModelBitAcc.vth.precision == THRESHOLD_MAX.bit_length()
    assert AbstractPyLifModelFixed.bias_mant.precision == (BIAS_MAX - BIAS_MIN).bit_length()
    assert 1 << AbstractPyLifModelFixed.u.precision - 1 == STATE_MAX


# ---------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        ([[0, 0]], 0),
        ([[0, 1]], 1),
        ([[0, 255]], 8),
        ([[-255, -1]], 8),
        ([[128, 64]], 2),
        ([[-2, 0, 2]], 2),
        ([[-256, 254]], 8),
        ([[-128, 64]], 2),
        ([[-4, 0]], 1),
    ],
)
def test_width_counts_what_the_integers_need(weight: list[list[int]], bits: int) -> None:
    assert width_of(np.array(weight)) == bits


@given(weight=ANY_WEIGHTS)
def test_width_is_the_fewest_bits_that_hold_every_weight(weight: NDArray[np.int64]) -> None:
    """Said anew: scaled down by a power of two, signed numbers of that many bits (unsigned if of one sign) hold all."""
    assume(weight.any())
    bits = width_of(weight)

    def held(n: int) -> bool:
        low, high = (-(1 << n - 1), (1 << n - 1) - 1) if is_mixed(weight) else (0, (1 << n) - 1)
        magnitude = weight if is_mixed(weight) else abs(weight)
        return any(
            not (magnitude % (1 << shift)).any() and low <= (magnitude >> shift).min() and (magnitude >> shift).max() <= high
            for shift in range(10)
        )

    assert held(bits)
    assert bits == 1 or not held(bits - 1)


def lava_runs(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """A layer's weights on their way through Lava: netx derives bits and exponent, the synapse clips and truncates.

    As in ``lava/proc/dense/models.py: AbstractPyDenseModelBitAcc.run_spk``, one input spike at a time, with the sign mode
    that ``netx/blocks/process.py`` leaves the synapse to find by itself.
    """
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    stored, bits, exponent, _ = optimize_weight_bits(weight)
    sign_mode = determine_sign_mode(stored)
    stored = truncate_weights(clip_weights(stored, sign_mode, num_bits=8), sign_mode, bits)
    shifted: NDArray[np.int64] = stored << exponent if exponent > 0 else stored >> -exponent
    return shifted


@pytest.mark.lava_here
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # Lava's own, where the largest weight is 0
@given(weight=ANY_WEIGHTS)
@example(weight=np.array([[0, -2]]))
@example(weight=np.array([[253, -255]]))
@example(weight=np.array([[-256]]))
@example(weight=np.array([[-258]]))
@example(weight=np.array([[300]]))
@example(weight=np.array([[300, -300]]))
@example(weight=np.array([[255]]))
def test_weights_are_read_as_lava_reads_them(weight: NDArray[np.int64]) -> None:
    assume(weight.any())
    np.testing.assert_array_equal(as_lava_reads(weight), lava_runs(weight))


@given(weight=st.one_of(weights(0, 255), weights(-256, 254, 2)))
def test_weights_of_both_signs_or_none_negative_are_read_as_they_are(weight: NDArray[np.int64]) -> None:
    assume(weight.any() and weight.max() > 0)
    np.testing.assert_array_equal(as_lava_reads(weight), weight)


@pytest.mark.parametrize(
    ("weight", "read"), [([[0, -2]], [[0, -1]]), ([[-1]], [[0]]), ([[0, -129]], [[0, 0]]), ([[300, -300]], [[254, -256]])]
)
def test_some_weights_are_read_wrong(weight: list[list[int]], read: list[list[int]]) -> None:
    assert as_lava_reads(np.array(weight)).tolist() == read


def test_a_matrix_of_zeros_has_no_exponent() -> None:
    with pytest.raises(OverflowError, match="an all-zero weight matrix has no exponent"):
        as_lava_reads(np.zeros((2, 2), dtype=np.int64))


@pytest.mark.lava_here
def test_lava_agrees_that_it_has_none() -> None:
    from lava.lib.dl.netx.utils import optimize_weight_bits

    with pytest.raises(OverflowError), np.errstate(divide="ignore"):
        optimize_weight_bits(np.zeros((2, 2), dtype=np.int64))
