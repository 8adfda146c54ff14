"""A picture whose name has an umlaut as one character (NFC), its mask with u and a diaeresis (NFD), as
macOS writes names into archives.

Right: they belong together, or the message says that the names differ in their Unicode form. Never: "mask
without image" with a name that looks the same.
"""

from __future__ import annotations

import unicodedata

from common import Verdict, box_mask, control, control_call, mentions, noise, save, script, segdistill

NAME = "M\u00fcller_\u00e91"


def pair(folder: str, form_of_mask: str) -> None:
    save(noise(1), f"{folder}/images/{unicodedata.normalize('NFC', NAME)}.png")
    save(box_mask(20, 30, 20, 34), f"{folder}/masks/{unicodedata.normalize(form_of_mask, NAME)}.png")


def main() -> Verdict:
    pair("same", "NFC")
    plain = control_call("data", "index", "folder", "same", "-o", "same.csv")
    control("1 case" in plain.out, f"both names in one form: {plain.out}")

    pair("mixed", "NFD")
    answer = segdistill("data", "index", "folder", "mixed", "-o", "mixed.csv")
    print(answer.text)
    fault = "1 case" not in answer.out and not mentions(answer.err, ("unicode", "normal", "nfc"))
    return Verdict(fault, f"{answer.last or answer.out.strip()}; right: one case, or the reason")


if __name__ == "__main__":
    script(main)
