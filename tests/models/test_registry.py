from __future__ import annotations

import subprocess
import sys

import pytest

from segdistill.errors import InputError
from segdistill.models import MODELS, create_network, find


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "attention_unett"}, "unknown network 'attention_unett': did you mean 'attention_unet'"),
        ({"name": "zzz"}, "unknown network 'zzz': known: agn, attention_unet, "),
        ({"name": "unet", "depth": 3}, "unknown option 'depth' of unet: known: widths"),
        ({"name": "u2net", "preset": "smal"}, "unknown preset 'smal' of u2net: did you mean 'small'?"),
        ({"name": "unet", "width": 3}, "unknown option 'width' of unet: did you mean 'widths'?"),
        ({"name": "unet", "widths": 3}, "option 'widths' of unet is 3: it must be a list of int"),
        ({"name": "unet", "widths": ["a", "b"]}, "option 'widths' of unet is 'a': it must be int"),
        ({"name": "unet", "classes": 0}, "classes is 0: it must be at least 1"),
        ({"name": "unet", "classes": True}, "option 'classes' of unet is True: it must be int"),
        ({"name": "unet", "in_channels": -1}, "in_channels is -1: it must be at least 1"),
        ({"name": "unet", "preset": "x"}, "unknown preset 'x' of unet: known: none"),
        (
            {"name": "resnet_attention_unet", "depth": 19},
            "depth' of resnet_attention_unet is 19: choose from 18",
        ),
        ({"name": "resnet_attention_unet", "decoder_up": "x"}, "is 'x': choose from upsample, deconv3"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        create_network(**arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_resolves_and_documents_itself(name: str) -> None:
    entry = find(name)
    assert entry.build().__doc__
    assert entry.summary
    assert "\n" not in entry.summary


def test_names_are_listed_without_torch() -> None:
    code = "import sys, segdistill.models as m; m.find('unet'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
