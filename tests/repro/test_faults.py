"""Every fault script gives the verdict that is known of it: still open, or mended.

A fault is `OPEN` while the product has it: its script must print FAULT, for the reason that its first lines give.
Whoever mends it writes `MENDED`: from then on the script must print OK. Both count only where the script's control
succeeds, which it checks itself (exit code 3). Slow ones take more than two seconds of processor time.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = {int(path.name.split("_")[1]): path for path in sorted(HERE.glob("fault_*.py"))}
OPEN, MENDED = "open", "mended"


@dataclass(frozen=True)
class Fault:
    """What is known of one script.

    Attributes:
        state: OPEN or MENDED.
        reason: what an open fault's line must match.
        slow: whether it runs by `make test-slow` alone.
    """

    state: str
    reason: str
    slow: bool = False


FAULTS = {
    1: Fault(MENDED, "0 of 224 lesion px are foreground, and 64 of 64 px of the rim", slow=True),
    2: Fault(MENDED, "25 px of foreground", slow=True),
    3: Fault(MENDED, "4096 of 4096 px are foreground", slow=True),
    4: Fault(MENDED, "masks of 90 % foreground .* right: a warning"),
    5: Fault(MENDED, "of 0..1.0: 256, of 0..1.004: 2;", slow=True),
    6: Fault(
        MENDED, "orientation 6: refused without the reason; orientation 3: mask beside its lesion", slow=True
    ),
    7: Fault(MENDED, "3 cases, 0 errors, 0 warnings", slow=True),
    8: Fault(MENDED, r"split \[''\], label \['train', 'val'\]", slow=True),
    9: Fault(MENDED, "8 of 8 patients are on several sides", slow=True),
    10: Fault(MENDED, "mask without image: .*; right: one case, or the reason"),
    11: Fault(MENDED, "traceback of index, run, predict", slow=True),
    12: Fault(MENDED, "mask without image: .*p1_lesion_0.png"),
    13: Fault(MENDED, "a mask 30 mm beside its image", slow=True),
    14: Fault(MENDED, r"header of \d+ bytes: is not an NRRD file", slow=True),
    15: Fault(MENDED, "it holds fractions", slow=True),
    16: Fault(MENDED, "differs from the image's in the qform, the codes", slow=True),
    17: Fault(MENDED, r"lies 7\.2 mm from \(0, 0, 21\)", slow=True),
    18: Fault(MENDED, "wrong reason given for a single slice, a series, a series in a table", slow=True),
    19: Fault(MENDED, "misleading: folder of volumes", slow=True),
    20: Fault(MENDED, "5 of 12 lesions are empty masks at 256 x 256, told: False", slow=True),
    21: Fault(MENDED, "'test': 0}, told before: False", slow=True),
    22: Fault(MENDED, "exit code 1, traceback: True: .*can't allocate memo", slow=True),
    23: Fault(MENDED, r"masks written \d\d+, rows 1; .* from the first picture: True", slow=True),
    24: Fault(MENDED, "names the mask files: False; masks in the folder: 3 for 2 pictures", slow=True),
    25: Fault(MENDED, "weights of the finished teacher gone: True, told: False", slow=True),
    26: Fault(MENDED, "should be a valid string, not 4", slow=True),
    27: Fault(MENDED, "no help with: capitals, empty rows, windows-1252", slow=True),
    28: Fault(MENDED, "two volumes of one kind: 12 and 40", slow=True),
    29: Fault(MENDED, "left out silently: patient7.nii.gz and scan.png", slow=True),
    30: Fault(MENDED, "1 groups with margins, 24 without; both runs train: False", slow=True),
    31: Fault(MENDED, "executed by: evaluate, export, run", slow=True),
    32: Fault(MENDED, "read from another file by: function, tags", slow=True),
    33: Fault(MENDED, "checksum is wrong were segmented: nii.gz, nrrd, mha", slow=True),
    34: Fault(MENDED, r"exit code 1, traceback: True, masks written: \['a.nii.gz'\], rows: 1", slow=True),
    35: Fault(MENDED, "still busy after 45 seconds"),
    36: Fault(MENDED, "reach the terminal from: predict, data check, data index", slow=True),
    37: Fault(MENDED, "taken as results: nan, logits", slow=True),
    38: Fault(MENDED, "changed weights were used by: evaluate, export", slow=True),
    39: Fault(MENDED, "stands in: run.json and the model file; told: False", slow=True),
    40: Fault(MENDED, "4 of 4 end in a traceback", slow=True),
    41: Fault(MENDED, r"four times the pictures take (9|\d\d)[\d.]* times as long", slow=True),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the scripts limit and interrupt processes as POSIX does")
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] * fault.slow) for n, fault in FAULTS.items()]
)
def test_verdict(number: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS[number])], capture_output=True, text=True, timeout=280, check=False
    )
    lines = done.stdout.splitlines() or [""]
    fault, shown = FAULTS[number], f"{done.stdout}\n{done.stderr}"
    if fault.state == MENDED:
        assert lines[-1].startswith("OK: "), shown
        assert done.returncode == 0, shown
        return
    assert re.match(f"FAULT: .*{fault.reason}", lines[-1]), shown
    assert done.returncode == 1, shown


def test_every_script_is_in_the_table() -> None:
    assert sorted(SCRIPTS) == sorted(FAULTS)
    assert {fault.state for fault in FAULTS.values()} <= {OPEN, MENDED}


def test_first_lines_say_what_is_right() -> None:
    for path in SCRIPTS.values():
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert "right: " in words.lower(), path
        assert "Never: " in words or "must not" in words, path
