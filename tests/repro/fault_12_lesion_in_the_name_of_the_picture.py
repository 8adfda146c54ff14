"""Pictures p1_lesion_0.png ... with masks p1_lesion_0_mask.png ... in one folder.

Right: three cases. Never: "mask without image" for pictures and masks alike.
"""

from __future__ import annotations

from common import Verdict, box_mask, control, control_call, noise, save, script, segdistill


def pictures(folder: str, word: str) -> None:
    for n in range(3):
        save(noise(n), f"{folder}/p1_{word}_{n}.png")
        save(box_mask(20, 30 + n, 20, 34), f"{folder}/p1_{word}_{n}_mask.png")


def main() -> Verdict:
    pictures("plain", "visit")
    plain = control_call("data", "index", "folder", "plain", "-o", "plain.csv")
    control("3 cases" in plain.out, f"of names without the word lesion: {plain.out}")

    pictures("lesion", "lesion")
    answer = segdistill("data", "index", "folder", "lesion", "-o", "lesion.csv")
    print(answer.text)
    return Verdict("3 cases" not in answer.out, f"{answer.last or answer.out.strip()}; right: 3 cases")


if __name__ == "__main__":
    script(main)
