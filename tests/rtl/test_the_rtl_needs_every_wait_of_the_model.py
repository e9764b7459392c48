"""The gaps that the model puts between tiles are needed: without them the RTL's results are wrong.

The sequencers have an input, `hurry`, that takes their wait out.  The shortest stream that hides a load or a drain
needs no wait; one vector less, or no second buffer, and the hurried machine spoils its results.  The clocked twin,
hurried alike, refuses such a stream: its elements know which tile an operand belongs to.
"""

import re

import numpy as np
import pytest

from simulator.mapping import Tiling
from simulator.reference import systolic as reference
from simulator.reference.sequencer import Sequencer

from .cases import draw, modelled
from .machines import ARRAYS, tiles_of, total, watch
from .verilated import need_verilator

OVERLAPPING = [array for array in ARRAYS if array.rows > 1 and (
    array.drain == "overlapped" if array.flow == "os" else array.weight_buffers == 2)]
WAITING = [array for array in ARRAYS if array.rows > 1 and array not in OVERLAPPING]
TRIES = 10
REFUSALS = re.compile("another fold|drain register|leave a column at once")


def hurried_is_right(array, case):
    tiles = tiles_of(array, case.inputs, case.weights)
    output = total(array, tiles, watch(array, tiles, hurry=True))
    return output is not None and np.array_equal(output, case.inputs @ case.weights)


class Hurried(Sequencer):
    """The twin's controller without its waits: only the first tile waits for its operands."""

    def _missing(self):
        return super()._missing() if self.started == 0 else []

    def _array_free(self, now):
        return self.started > 0 or super()._array_free(now)

    def _bank_free(self, number):
        return self.started >= number or super()._bank_free(number)


def hurried_twin(array, case):
    """Output of the clocked twin under hurry; AssertionError where its registers meet what they must not."""
    (m, k), n = case.inputs.shape, case.weights.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "Sequencer", Hurried)
        return reference.run(case.layer, array.machine, Tiling(m, k, n), case.inputs, case.weights)[1]


@pytest.mark.parametrize("array", OVERLAPPING, ids=str)
def test_a_stream_as_long_as_the_array_needs_no_wait(array):
    need_verilator()
    for seed in range(TRIES):
        case = draw(array, np.random.default_rng(seed), folds=2 + seed % 5, length=array.rows)
        tiles = tiles_of(array, case.inputs, case.weights)
        assert hurried_is_right(array, case)
        np.testing.assert_array_equal(hurried_twin(array, case), case.inputs @ case.weights)
        assert watch(array, tiles, hurry=True).edges == watch(array, tiles).edges == modelled(array, case).engine_cycles


@pytest.mark.parametrize("array", OVERLAPPING, ids=str)
def test_a_stream_shorter_by_one_is_spoilt_unless_it_waits_as_the_model_says(array):
    need_verilator()
    for seed in range(TRIES):
        folds = 2 + seed % 5
        shorter = draw(array, np.random.default_rng(seed), folds, array.rows - 1, whole=True)
        assert not hurried_is_right(array, shorter)
        with pytest.raises(AssertionError, match=REFUSALS):
            hurried_twin(array, shorter)
        tiles = tiles_of(array, shorter.inputs, shorter.weights)
        rtl = watch(array, tiles)
        np.testing.assert_array_equal(total(array, tiles, rtl), shorter.inputs @ shorter.weights)
        assert rtl.edges == modelled(array, shorter).engine_cycles
        # The gap makes up exactly for the missing vector: only the last tile's stream is shorter.
        full = draw(array, np.random.default_rng(seed), folds, array.rows, whole=True)
        assert rtl.edges == watch(array, tiles_of(array, full.inputs, full.weights)).edges - 1


@pytest.mark.parametrize("array", WAITING, ids=str)
def test_without_a_second_buffer_or_drain_register_every_tile_must_wait(array):
    need_verilator()
    for seed in range(TRIES):
        case = draw(array, np.random.default_rng(seed), folds=2 + seed % 5, length=array.rows + seed, whole=True)
        assert not hurried_is_right(array, case)
        if array.flow != "os":  # the twin has a drain register in each case: a serial drain waits by definition
            with pytest.raises(AssertionError, match=REFUSALS):
                hurried_twin(array, case)
