"""images/siteA/p1/*.png and masks/siteA/p1/*.png beside images/*.png and masks/*.png: six cases.

Right: six cases, or a line that names what was left out. Never: three cases with 0 warnings.
"""

from __future__ import annotations

from common import Verdict, box_mask, control, control_call, noise, save, script, segdistill


def pictures(name: str, places: tuple[str, ...]) -> None:
    for k, place in enumerate(places):
        for n in range(3):
            save(noise(10 * k + n), f"{name}/images/{place}{n}.png")
            save(box_mask(20, 30 + n, 20, 34), f"{name}/masks/{place}{n}.png")


def main() -> Verdict:
    pictures("flat", ("",))
    plain = control_call("data", "index", "folder", "flat", "-o", "flat.csv")
    control("3 cases" in plain.out, f"of the three pictures without sub-folders: {plain.out}")

    pictures("deep", ("", "siteA/p1/"))
    answer = segdistill("data", "index", "folder", "deep", "-o", "deep.csv")
    print(answer.text)
    found = (answer.out.strip().splitlines() or [answer.last])[-1]
    words = f"{found}; right: 6 cases, or what was left out is named"
    return Verdict("6 cases" not in answer.out and "siteA" not in answer.text, words)


if __name__ == "__main__":
    script(main)
