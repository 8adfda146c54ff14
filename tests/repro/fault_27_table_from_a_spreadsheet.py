"""Tables as people save them: headings "ID,Image,Masks"; empty rows at the end (",,"); Windows-1252 with an
umlaut.

Right: taken, or one line that names the very reason (capital letters; empty row; encoding and "save as CSV
UTF-8"). Never: "column 'id' is missing" beside a column ID.
"""

from __future__ import annotations

from pathlib import Path

from common import Verdict, box_mask, control_call, mentions, noise, save, script, segdistill, show

PLAIN = "id,image,masks\na,m\u00fc.png,k.png\n"
TABLES = {
    "capitals": (
        PLAIN.replace("id,image,masks", "ID,Image,Masks").encode(),
        ("capital", "lower case", "did you mean"),
    ),
    "empty rows": (f"{PLAIN},,\n,,\n".encode(), ("empty row", "blank row", "row 3 is empty")),
    "windows-1252": (PLAIN.encode("cp1252"), ("1252", "save it as", "CSV UTF-8", "encoding")),
}


def main() -> Verdict:
    save(noise(1), "m\u00fc.png")
    save(box_mask(10, 30, 20, 40), "k.png")
    Path("plain.csv").write_text(PLAIN, encoding="utf-8")
    control_call("data", "check", "plain.csv")

    faults = []
    for what, (content, reasons) in TABLES.items():
        Path("c.csv").write_bytes(content)
        answer = segdistill("data", "check", "c.csv")
        show(what, answer)
        if answer.code and (answer.crashed or not mentions(answer.text, reasons)):
            faults.append(what)
    return Verdict(bool(faults), f"no help with: {', '.join(faults) or 'none'}")


if __name__ == "__main__":
    script(main)
