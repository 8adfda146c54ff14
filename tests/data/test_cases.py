from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdistill.data.case import Case, file_hash, reference_mask, select, table_hash
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from tests.data.pictures import noise, save, square

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters=";\\/"), min_size=1
)


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    cases = [
        Case(
            "a, b",
            tmp_path / "images" / "ä (1).png",
            (tmp_path / "m1.png", tmp_path / "m2.png"),
            label="benign",
        ),
        Case("c", Path("/elsewhere/c.png"), group="p1", site="x", box=(0, 1, 5, 9), spacing_mm=(0.1, 0.25)),
        Case("d", tmp_path / "d.png", split="test", resize_mask=True),
    ]
    write_cases(cases, tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv") == cases
    rows = list(csv.DictReader((tmp_path / "cases.csv").open(encoding="utf-8")))
    assert rows[0]["masks"] == "m1.png;m2.png"
    assert rows[0]["image"] == "images/ä (1).png"
    assert rows[1]["image"] == "/elsewhere/c.png"


@given(st.lists(TEXT, min_size=1, unique=True), TEXT, st.floats(1e-6, 1e6))
def test_any_text_and_number_survive(tmp_path_factory, ids: list[str], label: str, spacing: float) -> None:
    table = tmp_path_factory.mktemp("t") / "cases.csv"
    cases = [Case(name, table.parent / "a.png", label=label, spacing_mm=(spacing, 1.0)) for name in ids]
    write_cases(cases, table)
    assert read_cases(table) == cases


def test_relative_files_follow_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cases.csv").write_text("id,image\na,sub/a.png\n")
    monkeypatch.chdir(tmp_path)
    assert read_cases("cases.csv")[0].image == tmp_path / "sub" / "a.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image\na.png\n", "column 'id' is missing"),
        ("id,image,lable\na,a.png,x\n", "did you mean 'label'"),
        ("id,image\n,a.png\n", "row 2, column 'id'"),
        ("id,image\na,\n", "row 2, column 'image'"),
        ("id,image\na,a.png\na,b.png\n", "two cases have the id 'a'"),
        ("id,image,split\na,a.png,trian\n", "row 2, column 'split'"),
        ("id,image,box\na,a.png,1 2 3\n", "row 2, column 'box'"),
        ("id,image,box\na,a.png,5 0 5 9\n", "row 2, column 'box'"),
        (
            "id,image,box\na,a.png,5 0 5 9\n",
            "'5 0 5 9' of case 'a' is empty, inverted or negative: write left top right bottom in pixels",
        ),
        (
            "id,image,box\na,a.png,0.2 0.2 0.7 0.7\n",
            "'0.2 0.2 0.7 0.7' of case 'a' is not whole pixels: write left top right bottom in pixels",
        ),
        ("id,image,box\na,a.png,10.9 10.9 11.2 40\n", "'10.9 10.9 11.2 40' of case 'a' is not whole pixels"),
        ("id,image,box\na,a.png,0 0 inf 9\n", "is not whole pixels"),
        ("id,image,spacing_mm\na,a.png,0.1 nan\n", "row 2, column 'spacing_mm'"),
        ("id,image,spacing_mm\nb,b.png,1 1\na,a.png,x y\n", "row 3, column 'spacing_mm'"),
        ("id,image\na,a.png,b,c\n", "more values than columns"),
        ("id,image\n", "no rows"),
        ("", "column 'id' is missing"),
    ],
)
def test_bad_tables_name_row_and_column(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(InputError) as caught:
        read_cases(table)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_box_of_whole_pixels_may_be_written_with_a_point(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("id,image,box\na,a.png,1.0 2 3.0 4\n")
    assert read_cases(tmp_path / "cases.csv")[0].box == (1, 2, 3, 4)


def test_missing_folder_and_binary_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such case table"):
        read_cases(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_cases(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="UTF-8"):
        read_cases(tmp_path / "b.csv")


PLAIN = "id,image,masks,label,spacing_mm\na,mü.png,k.png;l.png,benign,0.1 0.25\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("id,image,masks", "ID, Image ,MASKS").encode(),
        PLAIN.replace("spacing_mm", "Spacing mm").encode(),
        (PLAIN + ",,,,\n\n,,\n").encode(),
        PLAIN.replace("\na,", "\n,,,,\na,").encode(),
        PLAIN.replace("\n", ",,\n").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace("k.png;l.png", '"k.png;l.png"').replace(",", ";").encode(),
        b"sep=;\r\n" + PLAIN.replace("k.png;l.png", '"k.png;l.png"').replace(",", ";").encode(),
        PLAIN.replace("k.png;l.png", '"k.png;l.png"').replace(",", ";").replace("0.", "0,").encode(),
        PLAIN.replace("mü.png", "mu\N{COMBINING DIAERESIS}.png").encode(),
        PLAIN.replace("k.png", ".\\k.png").encode(),
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mü.png").touch()
    (tmp_path / "cases.csv").write_bytes(content)
    (case,) = read_cases(tmp_path / "cases.csv")
    files = (tmp_path / "mü.png", tmp_path / "k.png", tmp_path / "l.png")
    assert (case.id, case.image, *case.masks) == ("a", *files)
    assert (case.label, case.spacing_mm) == ("benign", (0.1, 0.25))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PLAIN.encode("cp1252"), "row 2 is not UTF-8 (byte 0xfc) but probably Windows-1252"),
        (PLAIN.encode("cp1252"), "save it as 'CSV UTF-8'"),
        (b"PK\x03\x04 and so on", "is a workbook of a spreadsheet: save it as CSV UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is no table of UTF-8 text"),
        ("id,image\na,a.png\n".encode("utf-16-le"), "is no table of UTF-8 text"),
        (b"id,image,Image\na,a.png,b.png\n", "column 'image' is there 2 times"),
        (b"id,image\n,,\n\na,\n", "row 4, column 'image': is empty"),
        (b"id,image,foreground\na,a.png,red\n", "row 2, column 'foreground': 'red' is not a value of a mask"),
        (b"id,image,levels\na,a.png,9 3\n", "row 2, column 'levels': '9 3' must be two numbers"),
    ],
)
def test_tables_that_are_refused_name_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_cases(tmp_path / "cases.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_named_values_and_levels_travel_with_the_table(tmp_path: Path) -> None:
    mask = save(tmp_path / "m.png", np.array([[0, 1], [255, 255]]))
    image = save(tmp_path / "a.png", noise(0, 2, 2))
    case = Case("a", image, (mask,), foreground=(1, "#ff0000"), background=(255,), levels=(-0.5, 4095.0))
    write_cases([case, Case("b", image)], tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv") == [case, Case("b", image)]
    plain = Case("a", image, (mask,))
    others = [replace(plain, foreground=(1,)), replace(plain, background=(0,)), replace(plain, levels=(0, 9))]
    assert len({table_hash([one]) for one in (plain, *others)}) == 4
    assert reference_mask(others[0], (2, 2)).tolist() == [[False, True], [False, False]]
    assert reference_mask(others[1], (2, 2)).tolist() == [[False, True], [True, True]]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"caf.udce9\.png: a name that is not UTF-8 text") as caught:
        write_cases([Case("a", tmp_path / "caf\udce9.png")], tmp_path / "cases.csv")
    str(caught.value).encode()
    assert not (tmp_path / "cases.csv").exists()


def test_a_semicolon_in_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rename"):
        write_cases([Case("a", tmp_path / "a;b.png")], tmp_path / "cases.csv")
    assert not (tmp_path / "cases.csv").exists()


def test_select_keeps_order() -> None:
    cases = [
        Case(str(i), Path("x"), label="ab"[i % 2], split=("train", "val", "test")[i % 3]) for i in range(12)
    ]
    assert [case.id for case in select(cases, split=["train", "test"], labels="a")] == ["0", "2", "6", "8"]
    assert select(cases) == cases


def test_table_hash_is_of_content(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", noise(0))
    copy = save(tmp_path / "other name.png", noise(0))
    a, b = Case("a", image), Case("b", copy)
    assert file_hash(image) == hashlib.sha256(image.read_bytes()).hexdigest()
    assert table_hash([a, b]) == table_hash([b, a]) == table_hash([replace(a, image=copy), b])
    assert table_hash([a]) == table_hash([replace(a, group="a")])
    for other in (
        replace(a, label="x"),
        replace(a, split="test"),
        replace(a, group="g"),
        replace(a, site="s"),
    ):
        assert table_hash([other]) != table_hash([a])
    before = table_hash([a])
    save(image, noise(1))
    os.utime(image, ns=(1, 1))
    assert table_hash([a]) != before
    image.unlink()
    with pytest.raises(InputError, match=r"a\.png"):
        table_hash([a])


def test_reference_joins_masks_and_fills_boxes(tmp_path: Path) -> None:
    first = save(tmp_path / "1.png", square(top=2, side=5))
    second = save(tmp_path / "2.png", square(top=20, side=5), mode="1")
    joined = reference_mask(Case("a", Path("a"), (first, second)), (48, 40))
    assert np.array_equal(joined, (square(top=2, side=5) | square(top=20, side=5)) > 0)
    assert not reference_mask(Case("a", Path("a")), (4, 5)).any()
    with pytest.raises(InputError, match="leaves the image"):
        reference_mask(Case("a", Path("a"), box=(0, 0, 9, 2)), (4, 5))


def test_two_unicode_forms_of_a_group_are_one() -> None:
    keys = {Case("a", Path("a.png"), group=name).group_key for name in ("M\u00fcller", "Mu\u0308ller")}
    assert keys == {"M\u00fcller"}
