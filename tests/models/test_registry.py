from __future__ import annotations

import subprocess
import sys

import pytest

from segdistill.errors import InputError
from segdistill.models.registry import NETWORKS, create_network, network_facts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "attention_unett"}, "unknown network 'attention_unett': did you mean 'attention_unet'"),
        ({"name": "zzz"}, "unknown network 'zzz': known: agn, attention_unet, "),
        ({"name": "unet", "depth": 3}, "network 'unet' has no option 'depth': known: dimensions, widths"),
        ({"name": "u2net", "preset": "smal"}, "unknown preset 'smal' of u2net: did you mean 'small'?"),
        ({"name": "unet", "width": 3}, "network 'unet' has no option 'width': did you mean 'widths'?"),
        ({"name": "unet", "widths": 3}, "network 'unet': widths is 3: it must be a list of int"),
        ({"name": "unet", "widths": ["a", "b"]}, "network 'unet': widths is 'a': it must be int"),
        ({"name": "unet", "classes": 0}, "classes is 0: it must be at least 1"),
        ({"name": "unet", "classes": True}, "network 'unet': classes is True: it must be int"),
        ({"name": "unet", "in_channels": -1}, "in_channels is -1: it must be at least 1"),
        ({"name": "unet", "preset": "x"}, "unknown preset 'x' of unet: known: none"),
        ({"name": "resnet18", "depth": 50}, "option 'depth' of resnet18 is fixed by its name"),
        (
            {"name": "resnet_attention_unet", "depth": 19},
            "network 'resnet_attention_unet': depth is 19: choose from 18",
        ),
        ({"name": "resnet_attention_unet", "decoder_up": "x"}, "is 'x': choose from upsample, deconv3"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        create_network(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_documents_itself(name: str) -> None:
    part, facts = NETWORKS[name], network_facts(name)
    assert part.build.__doc__
    assert part.summary
    assert "\n" not in part.summary
    assert set(facts.fixed) <= set(part.options)
    assert {option for preset in facts.presets.values() for option in preset} <= set(part.options)


def test_all_networks_are_listed_without_slow_imports() -> None:
    code = "import segdistill, sys; segdistill.list_networks(); sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
