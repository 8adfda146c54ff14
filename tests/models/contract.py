"""What every network must do; a test class per network inherits it and names the network and a small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import Network, Output
from segdistill.models.registry import create_network, network_facts


class LogitsOnly(nn.Module):
    """What is exported: image in, logits (or label) out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return tensor_of(self.model(image))


def tensor_of(output: Output) -> Tensor:
    tensor = output.label if output.logits is None else output.logits
    assert tensor is not None
    return tensor


def tensors_of(output: Output) -> list[Tensor]:
    """What a loss sees: logits, label, or both."""
    return [tensor for tensor in (output.logits, output.label) if tensor is not None]


class ModelContract:
    """Inherit as `class TestX(ModelContract)` and set `name`; the rest has defaults."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    """Reduced width, where the network has one."""
    size: ClassVar[int] = 32
    """A small valid height and width."""
    tolerance: ClassVar[float] = 1e-4

    def build(self, in_channels: int = 3, classes: int = 2) -> Network:
        torch.manual_seed(0)
        model = create_network(self.name, in_channels, classes, **self.options)
        assert isinstance(model, Network)
        return model

    def image(
        self, channels: int = 3, height: int | None = None, width: int | None = None, batch: int = 2
    ) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(batch, channels, height or self.size, width or self.size, generator=generator)

    def check_output(self, output: Output, batch: int, classes: int, size: tuple[int, int]) -> None:
        kind = network_facts(self.name).kind
        if kind in ("segmenter", "joint"):
            assert output.logits is not None
            assert output.logits.shape == (batch, classes, *size)
            assert all(level.shape[:2] == (batch, classes) for level in output.deep)
        if kind in ("classifier", "joint"):
            assert output.label is not None
            assert output.label.shape[0] == batch

    @pytest.mark.parametrize("channels", [1, 3])
    def test_forward_and_backward_reach_every_parameter(self, channels: int) -> None:
        model = self.build(channels, 2).train()
        output = model(self.image(channels))
        self.check_output(output, 2, 2, (self.size, self.size))
        given = [*tensors_of(output), *output.deep]
        loss = sum((level.square().mean() for level in given[1:]), given[0].square().mean())
        loss.backward()
        without = [name for name, value in model.named_parameters() if value.grad is None]
        assert without == [], "declared but never run"
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)

    @pytest.mark.parametrize("classes", [1, 4])
    def test_one_and_several_classes(self, classes: int) -> None:
        model = self.build(1, classes).eval()
        with torch.no_grad():
            self.check_output(model(self.image(1)), 2, classes, (self.size, self.size))

    def test_odd_sizes_are_handled_or_refused_with_the_size_to_pad_to(self) -> None:
        model = self.build().eval()
        height, width = self.size + 5, self.size + 7
        with torch.no_grad():
            if model.size_divisor == 1:
                self.check_output(model(self.image(3, height, width)), 2, 2, (height, width))
                return
            fits = -(-height // model.size_divisor) * model.size_divisor
            expected = f"height {height} is not a multiple of {model.size_divisor}: pad to {fits}"
            with pytest.raises(InputError, match=f"^{expected}$"):
                model(self.image(3, height, self.size))
            with pytest.raises(InputError, match=f"^width {width} is not a multiple"):
                model(self.image(3, self.size, width))
            fits_wide = self.size + model.size_divisor
            self.check_output(model(self.image(3, self.size, fits_wide)), 2, 2, (self.size, fits_wide))

    def test_wrong_channels_are_refused(self) -> None:
        with pytest.raises(InputError, match="image has 3 channels, the network takes 1"):
            self.build(1)(self.image(3))

    def test_one_tiny_image_cannot_train_batch_norm(self) -> None:
        model = self.build().train()
        deepest = max(info.stride for info in model.feature_info)
        with pytest.raises(InputError, match=f"a single value at stride {deepest}"):
            model(self.image(3, deepest, deepest, batch=1))

    def test_every_feature_can_be_distilled(self) -> None:
        features = self.build().train()(self.image()).features
        for name, feature in features.items():  # a map changed in place after it was kept would fail here
            (gradient,) = torch.autograd.grad(feature.float().square().mean(), feature, retain_graph=True)
            assert gradient.shape == feature.shape, name
        sum(feature.square().mean() for feature in features.values()).backward()

    def test_eval_is_deterministic_and_one_image_does_not_change_another(self) -> None:
        model = self.build().eval()
        image = self.image()
        with torch.no_grad():
            first, again, alone = (
                tensor_of(model(image)),
                tensor_of(model(image)),
                tensor_of(model(image[:1])),
            )
        assert torch.equal(first, again)
        torch.testing.assert_close(first[:1], alone, rtol=1e-4, atol=self.tolerance)

    def test_state_survives_safetensors(self) -> None:
        model = self.build().train()
        model(self.image())  # moves the running statistics
        torch.manual_seed(5)
        other = create_network(self.name, 3, 2, **self.options)
        other.load_state_dict(load(save({k: v.contiguous() for k, v in model.state_dict().items()})))
        image = self.image()
        with torch.no_grad():
            assert torch.equal(tensor_of(model.eval()(image)), tensor_of(other.eval()(image)))

    def test_features_are_as_declared(self) -> None:
        model = self.build().eval()
        with torch.no_grad():
            features = model(self.image()).features
        declared = {info.name: info for info in model.feature_info}
        assert len(declared) == len(model.feature_info)
        assert features.keys() == declared.keys()
        assert "encoder" in features
        for name, info in declared.items():
            size = self.size // info.stride
            assert features[name].shape == (2, info.channels, size, size), name

    def test_bf16_autocast_is_finite(self) -> None:
        model = self.build().train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = tensor_of(model(self.image())).float().square().mean()
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)

    def test_channels_last_gives_the_same(self) -> None:
        model = self.build().eval()
        image = self.image()
        with torch.no_grad():
            plain = tensor_of(model(image))
            model = model.to(memory_format=torch.channels_last)
            last = tensor_of(model(image.contiguous(memory_format=torch.channels_last)))
        torch.testing.assert_close(plain, last, rtol=1e-3, atol=self.tolerance)

    @pytest.mark.slow
    def test_torch_export_gives_the_same(self) -> None:
        model = self.build().eval()
        image = self.image()
        program = torch.export.export(model, (image,))
        with torch.no_grad():
            expected, exported = model(image), program.module()(image)
        for given, wanted in zip(tensors_of(exported), tensors_of(expected), strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-4, atol=self.tolerance)
        assert exported.features.keys() == expected.features.keys()

    @pytest.mark.slow
    def test_onnx_gives_the_same(self, tmp_path: Path) -> None:
        import onnxruntime

        model = self.build().eval()
        path = tmp_path / "model.onnx"
        batch = {"image": {0: torch.export.Dim("batch")}}
        torch.onnx.export(
            LogitsOnly(model).eval(),
            (self.image(batch=2),),
            path,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            dynamic_shapes=batch,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            image = self.image(batch=count)
            with torch.no_grad():
                expected = tensor_of(model(image))
            (given,) = session.run(None, {"image": image.numpy()})
            torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-3, atol=self.tolerance)


class StudentContract(ModelContract):
    """For networks that leave as a model file: their export is tested at every change, not only by the slow tests."""

    def test_torch_export_gives_the_same(self) -> None:
        super().test_torch_export_gives_the_same()

    def test_onnx_gives_the_same(self, tmp_path: Path) -> None:
        super().test_onnx_gives_the_same(tmp_path)
