"""Evaluation under autocast: the head is computed in float32, so that rounding does not make scores tie."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from pneumo.models import MODELS, build_model
from pneumo.models.precision import head_logits

BF16 = torch.bfloat16


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def features(count: int = 522, width: int = 50) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def head(width: int = 50) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 2))


def test_scores_of_different_images_differ_under_bf16() -> None:
    model = head().eval()
    with torch.inference_mode(), torch.autocast("cpu", BF16):
        rounded = model(features().to(BF16))
        logits = head_logits(model, features().to(BF16))
    assert len(rounded.double().softmax(1)[:, 1].unique()) < 500
    assert logits.dtype == torch.float32
    assert len(logits.double().softmax(1)[:, 1].unique()) > 515
    assert torch.equal(logits, model(features().to(BF16).float()))


def test_training_keeps_the_autocast_type() -> None:
    with torch.autocast("cpu", BF16):
        assert head_logits(head().train(), features()).dtype == BF16


def test_without_autocast_nothing_changes() -> None:
    model = head().eval()
    assert torch.equal(head_logits(model, features()), model(features()))


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_evaluates_its_head_in_float32(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", BF16):
        assert model.train()(images).dtype == BF16
        with torch.inference_mode():
            assert model.eval()(images).dtype == torch.float32
