"""evaluate, export and run on a run folder that somebody else sent: its stage.json names any Python
callable as the network, and it is called with any arguments.

Right: code that a folder names is never imported without the user's own word (--plugins MODULE, or a name
that is registered); one line, exit code 2. Never: it ran before the refusal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from common import TINY, Answer, Verdict, control, control_call, dataset, script, segdistill, show

CALLS = {
    "evaluate": ("evaluate", "x", "r/cases.csv", "--stage", "student"),
    "export": ("export", "x", "--stage", "student", "-o", "x.onnx"),
    "run": ("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "x"),
}
PROOF = Path("ran")


def received(change: bool) -> None:
    """A copy of the run as somebody would send it; with `change` its stages name a callable."""
    shutil.rmtree("x", ignore_errors=True)
    shutil.copytree("r", "x")
    for stage in Path("x/stages").glob("*/stage.json") if change else ():
        facts = json.loads(stage.read_text())
        facts["model"] = {
            "name": "external",
            "target": "subprocess:getoutput",
            "arguments": {"cmd": f"touch {PROOF.absolute()}"},
            "pretrained": None,
            "sha256": None,
        }
        stage.write_text(json.dumps(facts))


def opened(name: str, change: bool) -> Answer:
    received(change)
    return segdistill(*CALLS[name])


def main() -> Verdict:
    Path("tiny.yaml").write_text(TINY)
    dataset("d")
    control_call("run", "tiny.yaml", "--data", "d", "--device", "cpu", "--out", "r")
    for name in CALLS:
        answer = opened(name, change=False)
        control(answer.code == 0 and not PROOF.exists(), f"{name} of the folder as it is: {answer.last}")

    ran = []
    for name in CALLS:
        answer = opened(name, change=True)
        show(name, answer)
        if PROOF.exists():
            ran.append(name)
            PROOF.unlink()
        elif answer.crashed:
            return Verdict(True, f"{name} ends in a traceback")
    return Verdict(bool(ran), f"a command that the folder named was executed by: {', '.join(ran) or 'none'}")


if __name__ == "__main__":
    script(main)
