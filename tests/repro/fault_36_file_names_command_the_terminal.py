"""A picture named with escape sequences (from an archive of somebody's) that cannot be read: its name is
printed as it is, so it clears the screen, sets the window's title, or writes another line over the error.

Right: control characters of names and values are shown escaped (\\x1b) in all messages; the JSON does so
already. Never: an ESC byte on stderr or stdout that the product did not make.
"""

from __future__ import annotations

from pathlib import Path

from common import Answer, Verdict, control, model_file, noise, save, script, segdistill

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x1b[32mall 2 images segmented"


def answers(folder: str, name: str) -> dict[str, Answer]:
    """Calls that fail on a file of this name, and so print it."""
    save(noise(1, 40, 40), f"{folder}/d/a.png")
    Path(folder, "d", f"{name}.png").write_bytes(b"no picture")
    Path(folder, "t.csv").write_text(f'id,image,masks\na,"{name}.png",m.png\n')
    for n in range(2):
        save(noise(n, 40, 40), f"{folder}/i/images/{n}{name}.png")
        save(noise(n, 40, 40), f"{folder}/i/masks/{n}{name}.png")
    return {
        "predict": segdistill("predict", "model.onnx", f"{folder}/d", "-o", f"{folder}/p"),
        "data check": segdistill("data", "check", f"{folder}/t.csv"),
        "data index": segdistill("data", "index", "folder", f"{folder}/i", "-o", f"{folder}/i.csv"),
    }


def main() -> Verdict:
    model_file()
    for what, answer in answers("plain", "owned").items():
        control(
            answer.code in (2, 4) and "owned" in answer.text, f"{what} does not name its file: {answer.text}"
        )
        control("\x1b" not in answer.text, f"{what} prints an escape sequence of its own")

    where = []
    for what, answer in answers("escapes", ESCAPES).items():
        print(what, repr(answer.err[:160]))
        if answer.crashed or any(mark in answer.text for mark in "\x1b\x07"):
            where.append(what)
    return Verdict(bool(where), f"escape sequences reach the terminal from: {', '.join(where) or 'nowhere'}")


if __name__ == "__main__":
    script(main)
