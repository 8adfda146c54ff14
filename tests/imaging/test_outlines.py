"""Run lengths and polygons against published examples, and there and back on random masks."""

from __future__ import annotations

import numpy as np
import pytest

from segdistill.errors import InputError
from segdistill.imaging.polygons import fill_rings, trace, without_holes
from segdistill.imaging.rle import decode_runs, encode_runs, pack_runs, unpack_runs


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(tuple(rng.integers(1, 11, 2))) < rng.random() for _ in range(40)]


def test_run_lengths_as_the_mask_api_documents_them() -> None:
    assert encode_runs(np.array([[0, 0, 1, 1, 1, 0, 1]])) == [2, 3, 1, 1]
    assert encode_runs(np.array([[1, 1, 1, 1, 1, 1, 0]])) == [0, 6, 1]


def test_run_lengths_there_and_back() -> None:
    for mask in random_masks():
        for columns in (True, False):
            counts = encode_runs(mask, columns)
            assert unpack_runs(pack_runs(counts)) == counts
            assert (decode_runs(counts, mask.shape, columns) == mask).all()


@pytest.mark.parametrize("text", ["~", " ", "0o", "oooooooooooooooooooo0"])
def test_damaged_texts_of_run_lengths(text: str) -> None:
    with pytest.raises(InputError, match="compressed run lengths"):
        unpack_runs(text)


def test_lines_around_masks_give_them_back_to_the_bit() -> None:
    for mask in random_masks():
        outlines = trace(mask)
        assert (fill_rings([ring for each in outlines for ring in each.rings], mask.shape) == mask).all()
        for lines in (
            [each.keyhole() for each in outlines],
            [each.outer for part in without_holes(mask) for each in part],
        ):
            counted = np.sum([fill_rings([line], mask.shape) for line in lines], axis=0)
            assert (counted == mask).all()  # every pixel once, none twice
        assert all(not each.holes for part in without_holes(mask) for each in part)


# a compressed mask that the README of a port of the mask API publishes; its area and columns are those of pycocotools
PUBLISHED = (
    "0g05b08J4M2N2NA^O1`0OCO=0E090H080IO68DH;>@C>a0_O_O`0j0OWOF<:CM72I24NL43JM92FN;1ENKO72L0LO91J0MO92INO0NO122OO0"
    "M031O000NO31OO11MO40N011MO41MO21L06OL021L06OL021L06OL021L060J040L060J040L060J040L060J040L060J040L060J040L060K"
    "O31L060KO31L06OL021L06OL021L06OL021MO41MO21MO40N100NO310O00M0310O00NO1220NO92IONO91KOMO72M0<1EO:2GN63KM34OLM7"
    "3JF<;=1G_O_Ob0=AC`07EH=1IO71H090F0:1DO>1_O1b0>2N2N3L6H]O"
)


def test_published_run_lengths() -> None:
    mask = decode_runs(unpack_runs(PUBLISHED), (50, 70))
    assert mask.sum() == 2346
    assert mask.sum(axis=0)[:10].tolist() == [45, 37, 33, 31, 29, 37, 39, 40, 40, 41]
    assert pack_runs(encode_runs(mask)) == PUBLISHED


def test_run_lengths_as_pycocotools_writes_them() -> None:
    mask = np.zeros((60, 50), bool)
    mask[10:40, 5:45] = True
    mask[20:30, 15:20] = False
    written = "f9n0n0000000000000000000\\O\\O0d00\\O0d00\\O0d00\\O0d00\\O0d0d0"
    assert pack_runs(encode_runs(mask)) == f"{written}{48 * '0'}R9"
