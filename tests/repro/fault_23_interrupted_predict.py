"""Ctrl-C in the middle of 150 pictures. The message says "run the same command again to continue".

Right: the second call skips what is done, or the message does not promise it; and the table has a row for
every mask that was written. Never: it starts again from the first picture, and one row stands for dozens of
masks.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from common import Verdict, control, control_call, model_file, noise, rows_of, save, script, start

COUNT = 150


def masks() -> list[Path]:
    return [path for path in Path("p").glob("*.png") if "overlay" not in path.name]


def main() -> Verdict:
    model_file(size=(256, 256))
    for n in range(COUNT):
        save(noise(n, 256, 256), f"d/{n:03}.png")
    words = ("predict", "model.onnx", "d", "-o", "p")
    child = start(*words)
    while len(masks()) < 20 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.wait()
    said = Path("log").read_text()
    written, rows = len(masks()), len(rows_of("p/predictions.csv"))
    print(child.returncode, said.strip())
    control(
        child.returncode == 130 and written < COUNT, f"it was not interrupted: exit code {child.returncode}"
    )

    before = Path("p/000.png").stat().st_mtime_ns
    control_call(*words)
    final = len(rows_of("p/predictions.csv"))
    control(len(masks()) == final == COUNT, f"uninterrupted there are {len(masks())} masks and {final} rows")
    restarted = Path("p/000.png").stat().st_mtime_ns != before
    found = f"masks written {written}, rows {rows}; the second call began from the first picture: {restarted}"
    return Verdict(rows < written - 1 or (restarted and "to continue" in said), found)


if __name__ == "__main__":
    script(main)
