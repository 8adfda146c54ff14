"""Too little memory for a batch on the CPU (here: a limit of 3.5 GB, 24 pictures of 1024 x 1024 in a
batch).

Right: one line, as for a GPU ("the device has too little memory: lower batch_size ..."), exit code 2.
Never: a traceback.
"""

from __future__ import annotations

import resource
from pathlib import Path

from common import TINY, Answer, Verdict, control, dataset, script, segdistill, show


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (3_500_000 * 1024,) * 2)


def train(out: str, *changes: str) -> Answer:
    words = (
        "run",
        "tiny.yaml",
        "--data",
        "d",
        "--device",
        "cpu",
        "--out",
        out,
        "--set",
        "epochs=1",
        *changes,
    )
    return segdistill(*words, preexec_fn=limit)


def main() -> Verdict:
    Path("tiny.yaml").write_text(TINY)
    dataset("d", 36)
    plain = train("small")
    control(plain.code == 0, f"a small batch under the same limit: {plain.last}")

    answer = train("large", "size=1024", "batch_size=24")
    show("a batch of 24 pictures of 1024 x 1024", answer)
    right = answer.code == 2 and "memory" in answer.last and not answer.crashed
    words = f"exit code {answer.code}, traceback: {answer.crashed}: {answer.last[:100]}"
    return Verdict(not right, words if right else f"{words}; right: one line about memory and exit code 2")


if __name__ == "__main__":
    script(main)
