"""Settings of a model that cannot be trained are refused before anything starts."""

import pytest
import torch

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.models import build_model
from pneumo.models.settings import ModelSettings


@pytest.mark.parametrize("in_channels", [-1, 0, 2, 4])
def test_only_one_or_three_channels_are_accepted(in_channels: int) -> None:
    with pytest.raises(UserError, match=rf"model.in_channels={in_channels} must be 1 or 3"):
        ModelSettings(in_channels=in_channels)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_accepted_channels_reach_the_logits(in_channels: int) -> None:
    settings = ModelSettings(in_channels=in_channels)
    images = torch.zeros(2, 32, 32, dtype=torch.uint8)
    model = build_model(settings.name, in_channels=settings.in_channels)
    assert model(normalise(images, in_channels)).shape == (2, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "resnet81"}, "Did you mean resnet18"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"pretrained": True, "weights": "a.pth"}, "exclude each other"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelSettings(**settings)  # type: ignore[arg-type]
