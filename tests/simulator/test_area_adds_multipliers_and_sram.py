"""Area is multipliers and buffers by the table; a table without areas gives none rather than a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import InputError, area, load_machine


def test_a_128_square_array_with_three_64_kb_buffers_by_hand() -> None:
    machine = load_machine("scalesim_ws", {"rows": 128, "cols": 128})
    parts = area.breakdown(machine)
    # 16384 multipliers of 986 um2; 64 KB at 45 nm are 0.209 mm2
    assert parts == {"mac": pytest.approx(16384 * 986e-6), "input_sram": pytest.approx(0.209),
                     "weight_sram": pytest.approx(0.209), "output_sram": pytest.approx(0.209)}
    assert area.area_mm2(machine) == pytest.approx(16384 * 986e-6 + 3 * 0.209)


def test_a_shared_buffer_is_counted_once() -> None:
    machine = load_machine("scalesim_ws", {"shared_buffer_bytes": 8192})
    assert area.breakdown(machine) == {"mac": pytest.approx(1024 * 986e-6), "sram": pytest.approx(0.026)}


def test_a_smaller_node_is_smaller() -> None:
    sizes = [area.area_mm2(load_machine("scalesim_ws", {"area_table": f"cacti_{node}nm"})) for node in (45, 32, 22)]
    assert sizes[0] > sizes[1] > sizes[2] > 0  # type: ignore[operator]


def test_tables_without_areas_give_none() -> None:
    for table in ("horowitz_45nm", "accelergy_45nm"):
        assert area.area_mm2(load_machine("scalesim_ws", {"area_table": table})) is None


def test_a_table_with_only_one_of_the_two_areas_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_text('[sources]\nlab = "a bench"\n[[mac_area]]\nweight_bits = 8\ninput_bits = 8\num2 = 500\n'
                    'node_nm = 28\nvoltage_v = 0.8\nsource = "lab"\n')
    with pytest.raises(InputError, match="area table 'half': no area for component 'sram'"):
        area.area_mm2(load_machine("scalesim_ws", {"area_table": str(path)}))


def test_an_unknown_area_table_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'cacti_45nm'"):
        area.area_mm2(load_machine("scalesim_ws", {"area_table": "cacti45nm"}))
