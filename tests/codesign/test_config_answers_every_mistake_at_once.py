"""A training configuration is checked field by field; each mistake has its file, line, expectation and nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.config import check_config, line_of, load_config, shipped_names
from simulator.errors import InputError

BROKEN = """\
name = "broken"
sede = 3

[data]
batch_size = -4

[train]
epochs = "ten"
momentum = 1.5
schedule = "cosin"

[hardware]
machine = "nm_array"
target_latency = 0.5
slect_at = [0.5]
"""


def _message(text: str, tmp_path: Path, *overrides: str) -> str:
    path = tmp_path / "given.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config(str(path), overrides)
    return str(caught.value).replace(str(path), "given.toml")


def test_all_mistakes_of_a_file_come_in_one_error_with_their_lines(tmp_path: Path) -> None:
    message = _message(BROKEN, tmp_path)
    assert message.startswith("6 mistakes:")
    assert "given.toml, line 2: unknown key 'sede'; did you mean 'seed'?" in message
    assert "given.toml, line 5: data.batch_size = -4; expected greater than or equal to 1" in message
    assert "given.toml, line 8: train.epochs = 'ten'; expected an integer" in message
    assert "given.toml, line 9: train.momentum = 1.5; expected less than 1" in message
    assert "given.toml, line 10: train.schedule = 'cosin'; expected 'cosine', 'one_cycle' or 'constant'" in message
    assert "given.toml, line 15: unknown key 'hardware.slect_at'; did you mean 'select_at'?" in message


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('[prune]\nstructure = "2;4"\n', "unknown structure '2;4'"),
        ('[prune]\nstructure = "2:4"\nsparsity = 0.9\n', "expected 0.5, which this structure fixes"),
        ('[prune]\nstructure = "filter"\nsparsity = 0.5\nschedule = "one_cicle"\n', "did you mean 'one_cycle'?"),
        ('[prune]\nstructure = "filter"\nsparsity = 0.5\ncriterion = "magnitde"\n', "did you mean 'magnitude'?"),
        ('[prune]\nscope = 3\n', "expected a text or a table"),
        ('[hardware]\nmachine = "nm_aray"\ntarget_latency = 0.5\n', "did you mean 'nm_array'?"),
        ('[hardware]\nmachine = "nm_array"\n', "expected target_latency or target_energy"),
        ('[hardware]\ntarget_latency = 0.5\nmachine = "nm_array"\ncandidates = ["dense", "3:8"]\n',
         "machine 'nm_array' does not know the structure '3:8'; expected an n:m pattern that it has: 1:4, 2:4, 4:4"),
        ("[hardware]\ntarget_latency = 0.5\nselect_at = [1.5]\n", "expected progress through training, 0 to 1"),
        ("[hardware]\ntarget_latency = 0\n", "hardware.target_latency = 0; expected greater than 0"),
        ('[output]\nmachines = ["nm_array", "tiny_tpo"]\n', "did you mean 'tiny_tpu'?"),
        ('[model]\nbuild = "models.build"\n', 'model.build = \'models.build\'; expected "package.module:name"'),
        ("[data]\nvalidation = nan\n", "data.validation = nan; expected a finite number"),
        ("data = 3\n", "data = 3; expected a table"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_was_expected(section: str, expected: str, tmp_path: Path) -> None:
    message = _message(section, tmp_path)
    assert expected in message
    assert message.startswith("given.toml, line ")


def test_an_override_is_named_as_such(tmp_path: Path) -> None:
    good = 'name = "good"\n'
    assert "--set train.epoch=3: unknown key 'train.epoch'; did you mean 'epochs'?" in _message(
        good, tmp_path, "train.epoch=3"
    )
    half = _message(good, tmp_path, "train.epochs=3.5")
    assert "--set train.epochs=3.5: train.epochs = 3.5; expected an integer" in half
    assert "expected KEY=VALUE" in _message(good, tmp_path, "train.epochs")
    assert "'name' holds a value, not a section" in _message(good, tmp_path, "name.first=3")


def test_overrides_are_read_as_toml_else_as_text_and_data_is_short_for_its_source(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text('name = "good"\n', encoding="utf-8")
    config = load_config(
        str(tmp_path / "good.toml"),
        [
            "data=cifar10:/some/where",
            "train.lr=0.5",
            "prune.structure=2:4",
            'prune.skip=["fc", "conv1"]',
            "output.tensorboard=true",
        ],
    )
    assert config.data.source == "cifar10:/some/where"
    assert config.train.lr == 0.5
    assert config.prune is not None
    assert (config.prune.structure, config.prune.skip) == ("2:4", ("fc", "conv1"))
    assert config.output.tensorboard is True


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no training configuration 'dmo'.*did you mean 'demo'\?"):
        load_config("dmo")
    assert "not valid TOML" in _message("[train\n", tmp_path)
    assert "at line 1" in _message("[train\n", tmp_path)


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_configuration_reads_back_equal_from_its_resolved_form(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "resolved.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load_config(str(tmp_path / "resolved.toml")) == config
    assert config.data.source == "fashion-mnist-mini"


def test_a_line_is_found_by_its_whole_path() -> None:
    text = "x = 1\n[a]\nx = 2\n[a.b]\n x = 3\n[c]\na.x = 4\n"
    assert [line_of(text, path) for path in (["x"], ["a", "x"], ["a", "b", "x"], ["c", "a", "x"])] == [1, 3, 5, 7]
    assert line_of(text, ["a", "b", "y"]) == 4
    assert line_of(text, ["z"]) is None


def test_a_table_without_a_file_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"config: unknown key 'trian'; did you mean 'train'\?"):
        check_config({"name": "x", "trian": {}})
