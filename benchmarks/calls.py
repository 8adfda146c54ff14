"""How much of the package a run goes through: distinct functions, and how often a verdict and a network are computed.

A run of three stages (teacher, student, baseline) on synthetic images, from the command to the model file. The figure
is how often the verdicts are computed. `networks` counts how often a network is built, and by which function:
`with_values`, and `shapes_only` on the meta device. Training builds each network, a student loads its teacher, and
whatever comes after training (evaluation, report, model file) should load each network once: 7 in all.
"""

from __future__ import annotations

import collections
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from common import arguments, machine, report, scratch

VERDICTS = ("find_verdicts",)
NETWORKS = ("build_network",)
SETTINGS = ("dataset=phantom", "data.phantoms=40", "size=32", "epochs=1", "fit.batch_size=4")


Builders = dict[str, collections.Counter[str]]


def profile(package: Path) -> tuple[collections.Counter[CodeType], Builders]:
    """Starts counting the calls of every function of the package, and the functions that build networks."""
    import torch

    calls: collections.Counter[CodeType] = collections.Counter()
    builders: Builders = {"with_values": collections.Counter(), "shapes_only": collections.Counter()}
    root = str(package)

    def count(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            calls[code] += 1
            if code.co_name in NETWORKS and frame.f_back is not None:
                caller = frame.f_back.f_code
                kind = "shapes_only" if torch.get_default_device().type == "meta" else "with_values"
                builders[kind][f"{Path(caller.co_filename).stem}.{caller.co_qualname}"] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    return calls, builders


def main() -> None:
    args = arguments(__doc__).parse_args()
    import segdistill
    from segdistill.cli.main import main as command

    with scratch() as folder:
        run = ["run", "distill", "--out", str(folder / "run")]
        for setting in SETTINGS:
            run += ["--set", setting]
        sys.argv = ["segdistill", *run]
        stdout, sys.stdout = sys.stdout, sys.stderr
        calls, builders = profile(Path(segdistill.__file__).parent)
        try:
            command()
        except SystemExit as done:
            if done.code:
                raise
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            sys.stdout = stdout
    names = {"<module>", "<lambda>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
    functions = {(code.co_filename, code.co_qualname) for code in calls if code.co_name not in names}
    verdicts = sum(n for code, n in calls.items() if code.co_name in VERDICTS)
    details = {
        "functions": len(functions),
        "calls": sum(calls.values()),
        "files": len({file for file, _ in functions}),
        "verdicts": verdicts,
        "networks": {kind: {"all": found.total(), **found} for kind, found in builders.items()},
        "machine": machine(),
    }
    report(Path(__file__).stem, verdicts, 1, verdicts == 1, details, args.json)


if __name__ == "__main__":
    main()
