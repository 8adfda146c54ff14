"""Formats of annotation tools: what they hold becomes index masks, and bad input ends in one line."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib.path
import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case, reference_mask
from segdistill.data.datasets import create_dataset, detect_dataset
from segdistill.data.index import index_folder
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.imaging.rle import encode_runs
from tests.cli.test_data import run
from tests.data.pictures import noise, save

SIZE = (48, 40)


def labels(case: Case) -> np.ndarray:
    return reference_mask(case, SIZE).astype(int)


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def images(root: Path, *names: str) -> None:
    for k, name in enumerate(names):
        save(root / name, noise(k))


def coco(root: Path, name: str = "annotations/instances.json", **changes: Any) -> Path:
    images(root, "images/a.png", "images/b.png", "images/c.png")
    crowd = np.zeros(SIZE, bool)
    crowd[40:44, 2:9] = True
    content = {
        "images": [
            {"id": k, "file_name": f"{stem}.png", "height": 48, "width": 40} for k, stem in enumerate("abc")
        ],
        "categories": [{"id": 7, "name": "tumour"}, {"id": 3, "name": "liver"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "segmentation": [box(12, 12, 20, 20)], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 0,
                "category_id": 3,
                "segmentation": [box(4, 5, 14, 15), box(30, 1, 33, 2)],
            },
            {
                "id": 3,
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"size": [48, 40], "counts": encode_runs(crowd)},
                "iscrowd": 1,
            },
        ],
        **changes,
    }
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root


def test_coco(tmp_path: Path) -> None:
    assert detect_dataset(coco(tmp_path / "set")) == "coco"
    found = index_folder("coco", tmp_path / "set", drawn=tmp_path / "masks")
    expected = np.zeros(SIZE, int)
    expected[5:15, 4:14] = expected[1, 30:33] = 1
    expected[12:20, 12:20] = 2  # the later category wins
    assert [case.id for case in found.cases] == ["a", "b", "c"]
    assert [each.text for each in found.cases[0].classes] == ["liver=1", "tumour=2"]
    assert (labels(found.cases[0]) == expected).all()
    assert labels(found.cases[1]).sum() == 4 * 7
    assert not labels(found.cases[2]).any()
    told = " ".join(item.message for item in found.findings)
    assert "1 annotations are crowds" in told
    assert "6 pixels belong to two classes" in told
    assert "1 images are annotated with no shape" in told
    with Image.open(tmp_path / "masks" / "a.png") as image:
        assert image.mode == "P"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 3, "name": "liver"}]}, "has the category 7, which no one named"),
        ({"images": []}, "of the image 0, which images does not list"),
        ({"images": [{"id": k, "file_name": "x.png"} for k in range(2)]}, "is not below"),
        ({"images": [{"id": k, "file_name": "a.png", "height": 9, "width": 9} for k in range(2)]}, "size"),
        ({"annotations": [{"image_id": 0, "category_id": 3, "segmentation": []}]}, "neither polygons nor"),
        ({"annotations": [{"image_id": 0, "category_id": 3, "segmentation": [[1, 2]]}]}, "three points"),
        ({"annotations": [{"image_id": 0, "category_id": "x"}]}, "not a number"),
        ({"annotations": [3]}, "has no 'image_id'"),
        (
            {
                "annotations": [
                    {"image_id": 0, "category_id": 3, "segmentation": {"size": [48, 40], "counts": [5, 5]}}
                ]
            },
            "cover 10 pixels",
        ),
        (
            {
                "annotations": [
                    {"image_id": 0, "category_id": 3, "segmentation": {"size": [48, 40], "counts": "é"}}
                ]
            },
            "compressed run lengths",
        ),
    ],
)
def test_bad_coco(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_dataset("coco", coco(tmp_path, **change))
    assert "\n" not in str(caught.value)


def test_background_draws_nothing_and_regions_to_ignore_are_refused(tmp_path: Path) -> None:
    points = [[1, 1], [4, 1], [4, 3], [1, 3]]
    both = [{"label": label, "points": points} for label in ("cyst", "_background_")]
    (case, _) = create_dataset("labelme", labelme(tmp_path / "a", *both))
    assert [each.name for each in case.classes] == ["cyst"]
    with pytest.raises(
        InputError, match=r"a\.json: has shapes labelled '__ignore__', .*: remove these shapes"
    ):
        create_dataset("labelme", labelme(tmp_path / "b", {"label": "__ignore__", "points": points}))
    named = [{"id": 7, "name": "ignore"}, {"id": 3, "name": "liver"}]
    with pytest.raises(InputError, match="has shapes labelled 'ignore'"):
        create_dataset("coco", coco(tmp_path / "c", categories=named))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations_latest", ""),
        ("evaluation", ""),
        ("instances_train2017", "train"),
        ("a-valid", "val"),
        ("Test", "test"),
    ],
)
def test_coco_splits_are_whole_words(tmp_path: Path, name: str, split: str) -> None:
    assert {case.split for case in create_dataset("coco", coco(tmp_path, f"{name}.json"))} == {split}


def test_a_picture_that_exif_turns_is_named_as_such(tmp_path: Path) -> None:
    root = coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "images" / "a.png") as image:
        image.save(root / "images" / "a.png", exif=exif)
    with pytest.raises(
        InputError, match=r"states 48 x 40 pixels for a.png, which has 40 x 48: its EXIF orientation"
    ):
        create_dataset("coco", root)


def test_coco_with_an_image_id_twice_is_refused(tmp_path: Path) -> None:
    twice = [{"id": 0, "file_name": "a.png"}, {"id": 0, "file_name": "b.png"}]
    with pytest.raises(InputError, match=r"instances.json: two images have the id 0, a.png and b.png"):
        create_dataset("coco", coco(tmp_path, images=twice))


def test_coco_files_give_splits_and_agree_on_categories(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(tmp_path / split, f"../annotations/instances_{split}.json")
    cases = create_dataset("coco", tmp_path)
    assert [case.split for case in cases] == ["train"] * 3 + ["val"] * 3
    assert len({case.image for case in cases}) == len({case.masks for case in cases}) == 6
    coco(tmp_path / "val", "../annotations/instances_val.json", categories=[{"id": 3, "name": "spleen"}])
    with pytest.raises(InputError, match="category 3 is spleen here and liver in another file"):
        create_dataset("coco", tmp_path)


def test_polygons_outside_of_the_image_are_clipped_and_told(tmp_path: Path) -> None:
    shapes = [
        {"image_id": 0, "category_id": 3, "segmentation": [box(-5, -5, 10, 10)]},
        {"image_id": 1, "category_id": 3, "segmentation": [box(100, 100, 110, 110)]},
    ]
    found = index_folder("coco", coco(tmp_path / "set", annotations=shapes), drawn=tmp_path / "masks")
    assert labels(found.cases[0]).sum() == 100
    told = " ".join(item.message for item in found.findings)
    assert "2 shapes reach out of their image and are clipped" in told
    assert "1 shapes cover no pixel" in told
    assert "no shape is of the class tumour" in told


def yolo(root: Path, lines: str = "0 0.1 0.25 0.5 0.25 0.5 0.5 0.1 0.5\n", names: str = "[cyst]") -> Path:
    images(root, "images/train/a.png", "images/train/b.png", "images/val/c.png")
    for name, text in (("train/a", lines), ("val/c", "")):
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root


def test_yolo(tmp_path: Path) -> None:
    assert detect_dataset(yolo(tmp_path / "set")) == "yolo_seg"
    cases = {case.id: case for case in create_dataset("yolo_seg", tmp_path, masks=str(tmp_path / "m"))}
    expected = np.zeros(SIZE, int)
    expected[12:24, 4:20] = 1  # shares of 48 rows and 40 columns
    assert (labels(cases["a"]) == expected).all()
    assert cases["b"].masks == ()  # no text file: not annotated
    assert cases["c"].masks
    assert not labels(cases["c"]).any()
    assert [cases[name].split for name in "abc"] == ["train", "train", "val"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": "1 0 0 1 0 1 1"}, "line 1 has the class 1, which no one named"),
        ({"lines": "\n0 0.5 0.5 0.1 0.1"}, "line 2 is a box, not a polygon"),
        (
            {"lines": "0 0 0 1 0 1 1\n0 4 12 20 12 20 24"},
            "line 2 .* 24: coordinates are shares of the image's",
        ),
        ({"lines": "0 0 0 1 0 1"}, "three points"),
        ({"lines": "0 0 0 1 0 1 nan"}, "three points"),
        ({"names": "cyst"}, "names must be a list"),
        ({"names": "[cyst"}, "is no YAML"),
    ],
)
def test_bad_yolo(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_dataset("yolo_seg", yolo(tmp_path, **options))
    assert "\n" not in str(caught.value)


def test_yolo_text_without_image(tmp_path: Path) -> None:
    (yolo(tmp_path) / "images" / "train" / "a.png").unlink()
    with pytest.raises(InputError, match="is of no image"):
        create_dataset("yolo_seg", tmp_path)


def labelme(root: Path, *shapes: dict[str, Any], **changes: Any) -> Path:
    images(root, "a.png", "b.png")
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageHeight": 48, "imageWidth": 40, **changes}
    (root / "a.json").write_text(json.dumps(content))
    return root


def drawn_mask() -> str:
    file = io.BytesIO()
    Image.fromarray(np.eye(3, dtype=np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_labelme(tmp_path: Path) -> None:
    root = labelme(
        tmp_path / "set",
        {"label": "b", "shape_type": "polygon", "points": [[1, 1], [4, 1], [4, 3], [1, 3]]},
        {"label": "a", "shape_type": "rectangle", "points": [[10, 10], [12, 11]]},
        {"label": "a", "shape_type": "circle", "points": [[25, 30], [25, 40]]},
        {"label": "b", "shape_type": "mask", "points": [[5, 6], [7, 8]], "mask": drawn_mask()},
        {"label": "a", "shape_type": "linestrip", "points": [[0, 0], [9, 9]]},
    )
    assert detect_dataset(root) == "labelme"
    found = index_folder("auto", root, drawn=tmp_path / "masks")
    mask = labels(found.cases[0])
    assert (mask[1:3, 1:4] == 2).all()
    assert (mask[10, 10:12] == 1).all()
    assert [mask[6 + k, 5 + k] for k in range(3)] == [2, 2, 2]
    assert abs((mask == 1).sum() - 2 - np.pi * 100) < 4
    assert (mask == 2).sum() == 6 + 3
    assert found.cases[1].masks == ()
    assert "1 lines and points cover no pixel" in " ".join(item.message for item in found.findings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "a", "shape_type": "polygon", "points": [[0, 0]]}, "three points"),
        ({"label": "a", "shape_type": "rectangle", "points": [[0, 0]]}, "needs two points"),
        ({"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "AAAA"}, "damaged"),
        ({"label": "a", "shape_type": "star", "points": [[0, 0], [1, 1]]}, "kind star are not read"),
        ({"shape_type": "polygon"}, "has no label"),
    ],
)
def test_bad_labelme(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_dataset("labelme", labelme(tmp_path, shape))
    assert "\n" not in str(caught.value)


def test_two_labelme_files_of_one_image_are_refused(tmp_path: Path) -> None:
    root = labelme(tmp_path)
    file = next(root.rglob("*.json"))
    file.with_name(f"{file.stem}_reader2.json").write_text(file.read_text())
    with pytest.raises(
        InputError, match=rf"{file.stem}_reader2.json: is of .* as .*{file.name} is: keep one"
    ):
        create_dataset("labelme", root)


def cvat(root: Path, shapes: str, meta: str = "<label><name>cyst</name></label>", head: str = "") -> Path:
    images(root, "images/a.png", "images/b.png")
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n{head}<annotations><version>1.1</version><meta><job><labels>{meta}'
        f'</labels></job></meta><image id="0" name="a.png" subset="Train" width="40" height="48">{shapes}</image>'
        '<image id="1" name="b.png" width="40" height="48"></image></annotations>'
    )
    return root


def test_cvat(tmp_path: Path) -> None:
    meta = "<label><name>cyst</name></label><label><name>wall</name></label>"
    shapes = (
        '<polygon label="cyst" points="1,1;4,1;4,3;1,3"/>'
        '<mask label="wall" rle="1, 2, 2, 1" left="10" top="20" width="3" height="2"/>'
        '<box label="cyst" xtl="20" ytl="20" xbr="24" ybr="22" rotation="90"/>'
        '<ellipse label="wall" cx="20" cy="38" rx="12" ry="4"/>'
        '<polyline label="cyst" points="1,1;2,2"/>'
    )
    root = cvat(tmp_path / "set", shapes, meta)
    assert detect_dataset(root) == "cvat"
    found = index_folder("cvat", root, drawn=tmp_path / "masks")
    mask = labels(found.cases[0])
    assert (mask[1:3, 1:4] == 1).all()
    assert mask[20:22, 10:13].tolist() == [[0, 2, 2], [0, 0, 2]]  # along the rows of the box
    assert (mask[19:23, 21:23] == 1).all()  # turned by a quarter about (22, 21)
    assert (mask == 1).sum() == 6 + 8
    assert abs((mask == 2).sum() - 3 - np.pi * 48) < 4
    assert [case.split for case in found.cases] == ["train", ""]
    assert not labels(found.cases[1]).any()
    assert "1 shapes of the kind polyline are not drawn" in " ".join(item.message for item in found.findings)


ENTITIES = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shapes": '<polygon label="x" points="1,1;4,1;4,3"/>'},
            "the label 'x', which the task does not list",
        ),
        ({"shapes": '<polygon label="cyst" points="1,1"/>'}, "three points"),
        (
            {"shapes": '<mask label="cyst" rle="1,2" left="0" top="0" width="3" height="2"/>'},
            "cover 3 pixels",
        ),
        ({"shapes": '<box label="cyst" xtl="1"/>'}, "not a number"),
        ({"shapes": "<polygon"}, "is damaged"),
        ({"shapes": "", "head": ENTITIES}, "declares a document type"),
    ],
)
def test_bad_cvat(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_dataset("cvat", cvat(tmp_path, **options))
    assert "\n" not in str(caught.value)


def test_a_polygon_covers_the_pixels_whose_centres_it_holds(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 17)[:-1]
    radii = np.where(np.arange(16) % 2, 9, 17)
    points = np.column_stack((20 + radii * np.cos(angles), 24 + radii * np.sin(angles)))
    root = labelme(tmp_path, {"label": "star", "points": points.tolist()})
    mask = labels(create_dataset("labelme", root)[0]) > 0
    rows, columns = np.indices(SIZE)
    centres = np.column_stack((columns.ravel() + 0.5, rows.ravel() + 0.5))
    assert (mask.ravel() == matplotlib.path.Path(points).contains_points(centres)).all()


def test_masks_are_drawn_beside_the_table_and_again(tmp_path: Path) -> None:
    coco(tmp_path / "set")
    table = tmp_path / "t" / "cases.csv"
    for _ in range(2):
        text = run("index", "auto", tmp_path / "set", "-o", table)
    assert "taken as coco" in text
    assert [case.masks[0].parent.name for case in read_cases(table)] == ["cases_masks"] * 3
    assert [each.name for each in read_cases(table)[0].classes] == ["liver", "tumour"]
    own = save(tmp_path / "own" / "a.png", noise(1)).parent
    text = run("index", "coco", tmp_path / "set", "-o", table, "--masks", own, code=2)
    assert "it holds other files" in text
    text = run("index", "folder", tmp_path / "set", "-o", table, "--masks", own, code=2)
    assert "no option 'masks'" in text
