"""Masks drawn in black on white in all 12 cases (lesion 0, background 255).

Right: indexing says that the foreground covers nearly every picture and its whole border, so that somebody
looks. Never: 0 warnings.
"""

from __future__ import annotations

from common import (
    Verdict,
    box_mask,
    control,
    control_call,
    mentions,
    noise,
    save,
    script,
    segdistill,
    warns_of,
)

POLARITY = ("invert", "polarity", "foreground covers", "border", "black on white", "background")


def main() -> Verdict:
    for n in range(12):
        lesion = box_mask(10 + n, 30 + n, 20, 40)
        for name, mask in (("plain", lesion), ("dark", 255 - lesion)):
            save(noise(n), f"{name}/images/{n}.png")
            save(mask, f"{name}/masks/{n}.png")
    plain = control_call("data", "index", "folder", "plain", "-o", "plain.csv")
    control(not warns_of(plain.text, POLARITY), "masks drawn in white on black are warned about too")

    answer = segdistill("data", "index", "folder", "dark", "-o", "dark.csv")
    print(answer.text)
    found = warns_of(answer.text, POLARITY) or (answer.code == 2 and mentions(answer.err, POLARITY))
    return Verdict(not found, "masks of 90 % foreground that touch all four edges; right: a warning")


if __name__ == "__main__":
    script(main)
