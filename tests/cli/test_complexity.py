from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segdistill.cli.complexity import complexity, parse_input
from segdistill.errors import InputError
from segdistill.models.registry import NETWORKS

app = typer.Typer()
app.command()(complexity)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("name", "parameters", "gmac"),
    [
        ("unet", 34_527_106, 261.406),
        ("attention_unet", 34_878_638, 265.717),
        ("resnet_attention_unet", 106_060_206, 205.580),
        ("resnet101_attention_unet", 106_060_206, 205.580),
        ("simplified_unet", 2_162_146, 16.429),
    ],
)
def test_json_has_the_issue_s_keys_and_counts(name: str, parameters: int, gmac: float) -> None:
    found: dict[str, Any] = json.loads(run(name, "--input", "3x512x512", "--json"))
    assert found["parameters"] == parameters
    assert found["macs"] / 1e9 == pytest.approx(gmac, rel=1e-3)
    assert found["size_mb"] > parameters * 4 / 2**20
    (row,) = [row for row in found["published"] if row["paper"] == "LightBTSeg"]
    assert abs(row["cost_difference"]) < 1e-3
    assert abs(row["parameters_difference"]) < 0.02  # printed to one digit


@pytest.mark.slow
def test_all_lists_every_network_once() -> None:
    found = json.loads(run("all", "--json", "--input", "1x64x64"))
    assert [one["name"] for one in found] == [name for name in NETWORKS if name != "external"]
    assert all(one["macs"] > 0 for one in found)


def test_table_shows_the_published_row_and_the_misprint() -> None:
    text = run("unet_3plus")
    assert "26,974,658" in text
    assert "792.62" in text
    assert "misprint" in text


def test_presets_and_modes() -> None:
    small = json.loads(run("u2net", "--preset", "small", "--input", "3x64x64", "--classes", "1", "--json"))
    assert small["parameters"] == 1_131_181
    assert [row["preset"] for row in small["published"]] == ["small"]
    doubled = json.loads(run("simplified_unet", "--mode", "torchstat", "--json"))
    assert doubled["macs"] / 1e9 == pytest.approx(16.597, rel=1e-4)


@pytest.mark.parametrize("text", ["512x512", "3x512", "3x0x512", "axbxc", "", "3x512x512x1", "-3x5x5"])
def test_wrong_inputs_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like 3x512x512"):
        parse_input(text)


def test_unknown_name_is_an_input_error() -> None:
    with pytest.raises(InputError, match="unknown network 'unett'"):
        run("unett")
