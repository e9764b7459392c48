"""Every mistake in the settings is answered with what, where, what was expected and what to do."""

import pytest
import torch
from torch import nn

from codesign import Pruner
from codesign.settings import PrunerConfig
from simulator.errors import InputError


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 3)
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sparisty": 0.5}, "unknown key 'sparisty'.*did you mean 'sparsity'"),
        ({"structure": "2;4"}, "unknown structure '2;4'"),
        ({"schedule": "one-cycle", "sparsity": 0.5}, "did you mean 'one_cycle'"),
        ({"criterion": "taylor_square", "sparsity": 0.5}, "did you mean 'taylor_squared'"),
        ({"scope": "globl", "sparsity": 0.5}, "did you mean 'global'"),
        ({"sparsity": 1.5}, r"sparsity 1.5; expected a share of weights removed, in \[0, 1\)"),
        ({"structure": "2:4", "sparsity": 0.8}, "expected 0.5, which this structure fixes"),
        ({"structure": "unstructured"}, "no sparsity for structure 'unstructured'"),
        ({"sparsity": 0.5, "total_steps": 0}, "total_steps = 0; expected an integer of at least 1"),
        ({"sparsity": 0.5, "update_every": 2.5}, "update_every = 2.5"),
        ({"sparsity": 0.5, "select_at": 1.5}, r"select_at = 1.5; expected a progress in \[0, 1\]"),
        ({"sparsity": 0.5, "skip": ["3"]}, "skip: pattern '3' matches no layer"),
        ({"structure": {"conv9": "2:4"}}, "structure: pattern 'conv9' matches no layer"),
        ({"scope": {"fc*": 0.5}}, r"scope: pattern 'fc\*' matches no layer"),
        ({"scope": {"4": 2}}, r"scope\['4'\]: sparsity 2"),
        ({"structure": "2:4", "skip": ["*"]}, r"no layer to prune: 0 \(skip '\*'\)"),
        ({"structure": "ck", "sparsity": 0.5, "scope": "global"}, "scope 'global' with structure 'ck'"),
        ({"structure": {"2": "kernel + pattern 4"}, "sparsity": 0.7, "scope": "global"}, "compete over"),
        ({"structure": "channel", "sparsity": 0.5, "scope": "erk"}, "scope 'erk' with structure 'channel'"),
        ({"structure": "bank 8 + 2:4", "sparsity": 0.7}, "'2:4' inside 'bank 8'.*lie within units of 'bank 8'"),
        ({"structure": "block 64x64", "sparsity": 0.5}, r"no layer to prune: .*2 \(the whole layer is one unit"),
        ("2:4", "expected a dictionary or a PrunerConfig"),
    ],
)
def test_message(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pruner(net(), config)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(InputError) as caught:
        PrunerConfig.from_dict({"structure": "2;4", "schedule": "agb", "sparsity": -1, "total_steps": -3})
    assert "4 mistakes" in str(caught.value)


def test_the_same_mistake_is_told_once() -> None:
    with pytest.raises(InputError) as caught:
        PrunerConfig.from_dict({"structure": "2;4", "sparsity": 0.5})
    assert "mistakes" not in str(caught.value) and str(caught.value).count("2;4") == 1


def test_channels_that_layers_share_do_not_regrow() -> None:
    config = {"structure": "channel", "sparsity": 0.5, "regrow": "rigl"}
    with pytest.raises(InputError, match="regrow with channels that several layers share"):
        Pruner(net(), config, example_inputs=torch.zeros(1, 1, 6, 6))


def test_a_group_that_is_kept_whole_is_not_called_pruned() -> None:
    rows = {row.layer: row for row in Pruner(nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2)),
                                             {"structure": "2:4", "skip": []}).plan()}
    assert rows["0"].reason == "2:4 keeps all of its 2 units along k" and rows["0"].sparsity == 0.0
    assert rows["1"].sparsity == rows["2"].sparsity == 0.5


def test_a_mask_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(InputError, match="str for '2'; expected a torch"):
        Pruner(net(), {"sparsity": 0.5}).set_masks_({"2": "dense"})  # type: ignore[dict-item]


def test_an_empty_skip_prunes_the_first_convolution_and_the_classifier_too() -> None:
    plan = Pruner(net(), {"structure": "1:2", "skip": []}).plan()
    assert [row.sparsity for row in plan] == [0.5] * 4


def test_layers_without_a_pattern_stay_dense_and_say_so() -> None:
    rows = {row.layer: row for row in Pruner(net(), {"structure": {"4": "2:4"}}).plan()}
    assert rows["2"].structure == "dense" and rows["2"].reason == "no structure pattern names it"


def test_coupled_layers_must_agree() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.fc((self.a(x) + self.b(x)).mean((2, 3)))

    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(InputError, match="layers 'a', 'b' read the same channels but ask for different sparsities"):
        Pruner(Fork(), {"structure": "channel", "scope": {"a": 0.5, "b": 0.25}}, example_inputs=x)
    with pytest.raises(InputError, match="ask for different structures"):
        Pruner(Fork(), {"structure": {"a": "channel", "b": "2:4"}, "sparsity": 0.5}, example_inputs=x)
    with pytest.raises(InputError, match="shares its input channels with 'b', which stays dense"):
        Pruner(Fork(), {"structure": "channel", "skip": ["b"], "sparsity": 0.5}, example_inputs=x)


def test_a_cost_needs_an_example() -> None:
    with pytest.raises(InputError, match="a cost without example_inputs"):
        Pruner(net(), {}, cost=object())  # type: ignore[arg-type]


def test_progress_outside_training_is_refused() -> None:
    with pytest.raises(InputError, match=r"progress = 3; expected a number in \[0, 1\]"):
        Pruner(net(), {"structure": "2:4"}).step(progress=3)
