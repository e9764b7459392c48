"""Numbers as a reader wants them: 61.8 k cycles, 39.3 µJ, 2.04×.

Every function takes a number in the unit that its name says and returns text.  Nothing here rounds what is
stored: tables show exact counts, charts and headlines these short forms.  Read report_sections.py for who uses them.
"""

from __future__ import annotations

from collections.abc import Sequence

NONE = "–"
NO_BREAK = "\u00a0"
"""A space at which no line ends: a number stays with its unit."""
COUNTS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
ENERGIES_PJ = ((1e12, " J"), (1e9, " mJ"), (1e6, " µJ"), (1e3, " nJ"), (1.0, " pJ"))
TIMES_S = ((1.0, " s"), (1e-3, " ms"), (1e-6, " µs"), (1e-9, " ns"))
BYTES = ((2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"))


def exact(value: int) -> str:
    """A count in full, thousands apart: 61,823."""
    return f"{value:,}"


def short(value: float) -> str:
    """A count in three digits: 61.8 k."""
    return _scaled(value, COUNTS, "")


def energy(picojoules: float) -> str:
    """Picojoules in the unit that suits them: 39.3 µJ."""
    return _scaled(picojoules, ENERGIES_PJ, " pJ")


def seconds(value: float) -> str:
    """Seconds in the unit that suits them; from two minutes on in minutes: 61.8 µs, 2 min 48 s."""
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60} s"
    return _scaled(value, TIMES_S, " s")


def size(byte_count: float) -> str:
    """Bytes in binary units: 32 KiB."""
    return _scaled(byte_count, BYTES, " B")


def percent(share: float, digits: int = 1) -> str:
    """A share as percent: 0.485 -> 48.5 %."""
    return f"{100 * share:.{digits}f} %"


def times(ratio: float | None) -> str:
    """A ratio such as a speed-up: 2.04×."""
    if ratio is None:
        return NONE
    return f"{ratio:.2f}×" if ratio < 100 else f"{ratio:.0f}×"


def plain(value: float) -> str:
    """A tick's number without trailing zeros: 0.25, 40, 2 k."""
    return short(value) if abs(value) >= 1000 else f"{value:.6g}"


def _scaled(value: float, units: Sequence[tuple[float, str]], otherwise: str) -> str:
    for factor, unit in units:
        # 999.96 k would be shown as 1e+03 k: what rounds up to the next unit belongs to it.
        if abs(value) >= 0.9995 * factor:
            return _three_digits(value / factor) + unit.replace(" ", NO_BREAK)
    return _three_digits(value) + otherwise.replace(" ", NO_BREAK)


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}" if abs(value) >= 0.005 else f"{value:.2g}"
