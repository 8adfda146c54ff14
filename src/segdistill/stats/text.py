"""Numbers as text: with their sign, their unit, their interval."""

from __future__ import annotations

import math

from segdistill.records import Interval

NOT_MEASURED = "not measured"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign; an em dash where there is none.

    >>> number(-0.01234), number(None)
    ('−0.012', '—')
    """
    if value is None or not math.isfinite(value):
        return "—"
    shown = f"{value:.{digits}f}"
    return shown.replace("-", "" if float(shown) == 0 else "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign.

    >>> signed(0.0123), signed(-0.5, 1)
    ('+0.012', '−0.5')
    """
    shown = number(value, digits)
    return f"+{shown}" if value is not None and not shown.startswith(("−", "—")) and float(shown) else shown


def amount(value: object, unit: str = "") -> str:
    """A large number to three or four digits with its prefix; "not measured" where there is none.

    >>> amount(2_162_146), amount(16.429e9, "MAC"), amount(None)
    ('2.16 M', '16.4 GMAC', 'not measured')
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return NOT_MEASURED
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {prefix}{unit}"
    return f"{_three(float(value))} {unit}".strip()


def _three(value: float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"


def quantity(value: object, unit: str, digits: int | None = None) -> str:
    """A plain number with its unit; "not measured" where there is none.

    >>> quantity(8.4321, "MB"), quantity(None, "ms")
    ('8.43 MB', 'not measured')
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return NOT_MEASURED
    return f"{_three(float(value)) if digits is None else f'{value:.{digits}f}'} {unit}".strip()


def duration(seconds: object) -> str:
    """Seconds for readers.

    >>> duration(75), duration(7500), duration(None)
    ('1 min 15 s', '2 h 5 min', 'not measured')
    """
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        return NOT_MEASURED
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def interval_text(value: Interval | None, digits: int = 3) -> str:
    """Mean and interval on one line.

    >>> interval_text(Interval(0.8, 0.75, 0.85, 9))
    '0.800 (95 % interval 0.750 to 0.850)'
    """
    if value is None or value.mean is None:
        return NOT_MEASURED
    if value.low is None:
        return f"{number(value.mean, digits)} (too few cases for an interval)"
    return f"{number(value.mean, digits)} (95 % interval {number(value.low, digits)} to {number(value.high, digits)})"
