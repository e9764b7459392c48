"""Without Verilator the RTL tests are skipped with a reason; in continuous integration, which has it, they fail."""

import pytest

from .verilated import need_verilator


def test_without_verilator_a_test_is_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="verilator and g\\+\\+ not found"):
        need_verilator()


def test_in_continuous_integration_it_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="system-packages"):
        need_verilator()
