from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from segdistill.errors import InputError
from segdistill.imaging.preprocess import Preprocess
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import METADATA_KEY, dump_info, parse_info, read_info
from segdistill.runtime.onnx_file import add_hash, read_onnx
from tests.runtime.small_model import INFO, build, save


def test_metadata_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    assert read_info(path) == INFO
    assert read_info(path).metrics == {"dice": 0.5}
    expected = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert read_onnx(path).metadata == expected


def refuse(path: Path, reason: str) -> None:
    for reader in (read_info, Engine):
        with pytest.raises(InputError, match=reason) as caught:
            reader(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_model_file(tmp_path: Path) -> None:
    refuse(tmp_path / "absent.onnx", "no such model file")
    refuse(tmp_path, "is not a file")
    path = tmp_path / "m.onnx"
    path.touch()
    refuse(path, "not a segdistill model file: .* has 0 bytes")
    path.write_text("hello, this is text")
    refuse(path, "not a segdistill model file")
    whole = save(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse(path, "not a segdistill model file: .*cut short")


def test_foreign_and_newer_and_damaged_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"

    def with_text(text: str | None) -> Path:
        model = build()
        del model.metadata_props[:]
        helper.set_model_props(model, {"author": "x"} if text is None else {METADATA_KEY: text})
        return save(path, model)

    refuse(with_text(None), "ONNX without segdistill's metadata")
    refuse(with_text("{"), "metadata is damaged")
    refuse(with_text("[]"), "metadata is damaged")
    refuse(with_text('{"format_version": 1}'), "metadata lacks 'name'")
    values: dict[str, Any] = json.loads(dump_info(INFO))
    refuse(with_text(json.dumps(values | {"format_version": 2})), "reads up to 1: update segdistill")
    refuse(with_text(json.dumps(values | {"format_version": "1"})), "format version '1'")
    refuse(with_text(json.dumps(values | {"input_channels": 1})), "1 input channels")
    refuse(with_text(json.dumps(values | {"classes": ["a", "b"]})), "classes")
    refuse(with_text(json.dumps(values | {"preprocess": {"size": [0, 1]}})), "input size")


def test_info_must_agree_with_itself() -> None:
    with pytest.raises(InputError, match="input channels"):
        replace(INFO, preprocess=Preprocess((4, 4), channels=1))
    assert parse_info(dump_info(INFO)) == INFO


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = build()
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin"
    )
    refuse(tmp_path / "m.onnx", "keeps weights in other files")


def test_weights_in_other_files_are_found_inside_a_subgraph(tmp_path: Path) -> None:
    model = build()
    inner = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    inner.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=inner)], "branch", [], [])
    model.graph.node.add().CopyFrom(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    )
    refuse(save(tmp_path / "m.onnx", model), "keeps weights in other files")


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "m.onnx", build(domain="evil.example")), "operator of domain 'evil.example'")


def test_a_graph_that_does_not_load_or_fit_is_one_line(tmp_path: Path) -> None:
    model = build()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InputError, match="not a segdistill model file") as caught:
        Engine(save(tmp_path / "m.onnx", model))
    assert "\n" not in str(caught.value)
    model = build()
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    with pytest.raises(InputError, match="no input 'image'"):
        Engine(save(tmp_path / "m.onnx", model))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_give_an_info_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(build().SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_info(path).format_version == 1


def test_engine_runs_what_the_graph_says(tmp_path: Path) -> None:
    engine = Engine(save(tmp_path / "m.onnx"), threads=1)
    batch = np.random.default_rng(0).random((2, 3, 32, 48), np.float32)
    answer = engine.run(batch)
    expected = 1 / (1 + np.exp(-20 * (batch.mean(1) - 0.5)))
    assert answer.dtype == np.float32
    assert answer.shape == (2, 2, 32, 48)
    assert np.allclose(answer[:, 1], expected, atol=1e-5)
    assert np.allclose(answer.sum(1), 1, atol=1e-6)
    for wrong in (batch[0], batch[:, :1], batch.astype(np.float64)):
        with pytest.raises(InputError, match="a batch must be"):
            engine.run(wrong)
    with pytest.raises(InputError, match="at least 1"):
        Engine(engine.path, threads=0)


def test_a_file_that_holds_its_hash_is_what_was_exported(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    plain = path.read_bytes()
    add_hash(path)
    sealed = path.read_bytes()
    assert onnx.load(path).metadata_props[-1].value == hashlib.sha256(plain).hexdigest()
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert read_info(path) == INFO
    image = np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)
    expected = Engine(save(tmp_path / "plain.onnx")).run(image)
    np.testing.assert_array_equal(Engine(path).run(image), expected)
    weights = plain.index(next(t.raw_data for t in onnx.load(path).graph.initializer if len(t.raw_data) > 8))
    for position in (weights, weights + 5):
        path.write_bytes(sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :])
        refuse(path, "m.onnx: is damaged, or was changed since it was exported")
    path.write_bytes(sealed)
    again = onnx.load(path)
    onnx.save(again, path)  # written again as it is by another tool
    assert read_info(path) == INFO
    again.graph.name = "other"
    onnx.save(again, path)
    refuse(path, "was changed since it was exported")
