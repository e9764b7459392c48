"""Criteria against their formulas on numbers that fit in one's head, and their means over batches."""

import pytest
import torch
from torch import nn

from codesign.criteria import CRITERIA, Criterion, accumulate, parse_criterion, running_mean
from simulator.errors import InputError

WEIGHT = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
GRADIENT = torch.tensor([[4.0, 0.5], [9.0, -1.0]])
EXPECTED = {
    "magnitude": [[1.0, 2.0], [0.0, 3.0]],
    "magnitude_squared": [[1.0, 4.0], [0.0, 9.0]],
    "taylor_squared": [[16.0, 1.0], [0.0, 9.0]],
    "fisher": [[16.0, 1.0], [0.0, 9.0]],
    "magnitude_max": [[1.0, 2.0], [0.0, 3.0]],
    "taylor": [[4.0, 1.0], [0.0, 3.0]],
    "snip": [[4.0, 1.0], [0.0, 3.0]],
    "movement": [[-4.0, 1.0], [0.0, 3.0]],
}


@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.probe is None])
def test_scores_are_the_formulas(name: str) -> None:
    gradient = GRADIENT if CRITERIA[name].needs_gradient else None
    assert CRITERIA[name].score(WEIGHT, gradient).tolist() == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.needs_gradient])
def test_a_criterion_that_needs_a_gradient_says_so(name: str) -> None:
    with pytest.raises(InputError, match="no gradient"):
        CRITERIA[name].score(WEIGHT, None)


def test_accumulate_is_the_mean_over_batches_of_squared_gradient_times_weight() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    batches = [(torch.tensor([[x]]), torch.tensor([[0.0]])) for x in (1.0, 3.0)]
    # loss (w x)^2, gradient 2 w x^2 = 4, 36; (w g)^2 = 64, 5184
    scores = accumulate(model, batches, nn.functional.mse_loss)
    assert scores[""].tolist() == [[(64.0 + 5184.0) / 2]]
    assert model.weight.grad is None


def test_accumulate_without_batches_is_an_error() -> None:
    with pytest.raises(InputError, match="no batches"):
        accumulate(nn.Linear(1, 1), [], nn.functional.mse_loss)


def test_running_mean_forgets() -> None:
    one, two = torch.tensor([0.0]), torch.tensor([1.0])
    assert running_mean(None, one, 0.9) is one
    assert running_mean(one, two, 0.9).item() == pytest.approx(0.1)
    assert running_mean(one, two, 0.0) is two


def test_a_function_is_a_criterion_and_a_misspelt_name_is_not() -> None:
    assert isinstance(parse_criterion(lambda weight, gradient: weight), Criterion)
    with pytest.raises(InputError, match="did you mean 'magnitude'"):
        parse_criterion("magnitud")
