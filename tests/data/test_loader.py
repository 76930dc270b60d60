"""Samplers draw the promised images, and each image of a batch reaches exactly one process."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pneumo import UserError
from pneumo.data import cache, manifest
from pneumo.data.loader import SAMPLERS, batches, drawn_shares, epoch_order, evaluation_batch, mix, splits
from pneumo.data.settings import SAMPLERS as options
from pneumo.data.settings import DataSettings, SamplerSettings

LABELS = np.repeat([0, 1], [250, 750])


def order(
    name: str, seed: int = 0, epoch: int = 1, labels: np.ndarray = LABELS, **keys: float
) -> torch.Tensor:
    return epoch_order(SamplerSettings(name=name, **keys), labels, seed=seed, epoch=epoch)


@pytest.mark.parametrize("name", ["shuffle", "imbalanced", "weighted"])
def test_seed_and_epoch_alone_decide(name: str) -> None:
    first = order(name)
    torch.manual_seed(77)
    np.random.seed(77)  # the global generators have no effect
    state = torch.get_rng_state()
    assert torch.equal(order(name), first) and first.dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), state)
    others = [order(name, seed=1), order(name, epoch=2), order(name, seed=1, epoch=0), order(name, epoch=0)]
    assert all(not torch.equal(one, two) for one, two in pairwise([first, *others]))


@pytest.mark.parametrize(
    ("size", "device", "expected"), [(64, "cpu", 64), (112, "cpu", 32), (2048, "cpu", 1), (224, "cuda", 64)]
)
def test_a_cpu_evaluates_no_more_together_than_its_caches_hold(size: int, device: str, expected: int) -> None:
    assert evaluation_batch(64, size, torch.device(device)) == expected


def test_shuffle_is_a_permutation() -> None:
    drawn = order("shuffle")
    assert torch.equal(drawn.sort().values, torch.arange(1000))
    assert not torch.equal(drawn, torch.arange(1000))


@pytest.mark.parametrize("name", ["imbalanced", "weighted"])
def test_classes_come_equally_often(name: str) -> None:
    drawn = torch.cat([order(name, epoch=epoch) for epoch in range(20)]).numpy()
    counts = np.bincount(LABELS[drawn])
    # 20,000 draws of probability one half: five deviations are 2 * 177.
    assert abs(counts[0] - counts[1]) < 2 * 5 * np.sqrt(20_000 / 4)
    within = np.bincount(drawn, minlength=1000)[:250]  # 10,000 over 250 images: 40 each
    assert abs(within - 40).max() < 5.5 * np.sqrt(40)


@pytest.mark.parametrize("smoothing", [0.0, 100.0, 1e6])
def test_smoothing_is_added_to_the_counts(smoothing: float) -> None:
    drawn = torch.cat([order("imbalanced", epoch=epoch, smoothing=smoothing) for epoch in range(40)]).numpy()
    weight = 1 / (np.array([250, 750]) + smoothing) * [250, 750]
    expected = weight[0] / weight.sum()
    settings = SamplerSettings(name="imbalanced", smoothing=smoothing)
    assert drawn_shares(settings, torch.tensor([250, 750])).tolist() == pytest.approx(
        [expected, 1 - expected]
    )
    share = float((LABELS[drawn] == 0).mean())
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(drawn))


def test_imbalanced_without_smoothing_is_weighted() -> None:
    """The docstring and the configuration promise this. With smoothing they differ."""
    assert torch.equal(order("imbalanced"), order("weighted"))
    assert not torch.equal(order("imbalanced", smoothing=100.0), order("weighted"))


def test_every_option_has_a_sampler() -> None:
    assert tuple(SAMPLERS) == options


def test_a_name_without_a_sampler_is_refused() -> None:
    """A name that the settings know and the loader does not must not train as another sampler."""
    settings = SamplerSettings()
    settings.name = "balanced"
    refused = r"sampler=balanced is not known; the options are shuffle, imbalanced, weighted"
    with pytest.raises(UserError, match=refused):
        epoch_order(settings, LABELS, seed=0, epoch=1)
    with pytest.raises(UserError, match=refused):
        drawn_shares(settings, torch.tensor([250, 750]))


def test_one_class_alone_can_be_drawn() -> None:
    for name in ("imbalanced", "weighted"):
        assert len(order(name, labels=np.ones(7, dtype=np.int64))) == 7


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 6, 7, 64, 65, 66, 69, 127, 129, 640])
def test_processes_share_each_batch(world_size: int, count: int) -> None:
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    cut = batches(drawn, 64, world_size)
    assert torch.equal(torch.cat(cut), drawn)
    shares = [[batch[rank::world_size] for batch in cut] for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1  # every process takes every step
    seen = torch.cat([part for share in shares for part in share])
    assert torch.equal(seen.sort().values, torch.arange(count))
    if count >= 2 * world_size:
        assert min(len(part) for share in shares for part in share) >= 2  # BatchNorm needs two


def test_a_last_batch_too_small_is_joined() -> None:
    assert [len(batch) for batch in batches(torch.arange(129), 64)] == [64, 65]
    assert [len(batch) for batch in batches(torch.arange(130), 64)] == [64, 64, 2]
    assert [len(batch) for batch in batches(torch.arange(131), 64, 2)] == [64, 67]
    assert [len(batch) for batch in batches(torch.arange(1), 64)] == [1]


@pytest.fixture
def data(kaggle_read_only: Path, settings: Callable[..., DataSettings]) -> cache.ImageCache:
    mine = settings(root=kaggle_read_only)
    return cache.prepare(manifest.build(mine), mine)


def test_splits_take_their_own_images(data: cache.ImageCache) -> None:
    parts = splits(data, torch.device("cpu"))
    assert set(parts) == {"train", "val", "test"}
    assert sum(len(part) for part in parts.values()) == 60
    table = data.manifest.table
    for name, part in parts.items():
        mine = table[table["split"] == name]
        assert part.paths == mine["path"].tolist() and part.patients == mine["patient"].tolist()
        indices = torch.tensor([len(part) - 1, 0, 0])
        images, labels = part.take(indices)
        assert images.shape == (3, 32, 32) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        for image, label, index in zip(images, labels, indices.tolist(), strict=True):
            row = mine.index[index]
            assert np.array_equal(image.numpy(), data.images[data.rows[row]])
            assert int(label) == table["label"][row]


def test_unknown_patients_are_none(data: cache.ImageCache) -> None:
    data.manifest.table["patient"] = data.manifest.table["patient"].astype(object)
    data.manifest.table.loc[0, "patient"] = None
    data.manifest.table.loc[1, "patient"] = float("nan")
    first = splits(data, torch.device("cpu"))[data.manifest.table["split"][0]]
    assert first.patients[:2] == [None, None] and isinstance(first.patients[2], str)


def test_take_works_where_nothing_can_be_copied_back(data: cache.ImageCache) -> None:
    """On the meta device, reading any value on the host fails."""
    part = splits(data, torch.device("cpu"))["train"]
    part.device = torch.device("meta")
    part.images = torch.empty(data.images.shape, dtype=torch.uint8, device="meta")
    part.rows, part.labels = part.rows.to("meta"), part.labels.to("meta")
    images, labels = part.take(torch.arange(5))
    assert images.device.type == labels.device.type == "meta"
    assert images.shape == (5, 32, 32) and labels.shape == (5,)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_take_on_cuda_gives_the_same(data: cache.ImageCache) -> None:
    here, there = splits(data, torch.device("cpu"))["val"], splits(data, torch.device("cuda"))["val"]
    for one, other in zip(here.take(torch.arange(4)), there.take(torch.arange(4)), strict=True):
        assert torch.equal(one, other.cpu())


def test_mix_spreads_neighbours() -> None:
    drawn = {mix(seed, epoch) for seed in range(60) for epoch in range(60)}
    assert len(drawn) == 3600 and all(0 <= number < 2**63 for number in drawn)
    low = {number % 2**32 for number in drawn}  # what torch's CPU generator keeps of a seed
    assert len(low) > 3590
    assert mix(1, 0) != mix(0, 1) and mix(-1) == mix(2**64 - 1)


@pytest.mark.parametrize("numbers", [(0, 1), (3, 7), (0, 0)])
def test_the_order_of_an_epoch_and_its_first_step_have_different_seeds(numbers: tuple[int, int]) -> None:
    seeds = {mix(*numbers), mix(*numbers, 0), mix(*numbers, 0, 0), mix(*numbers, 0, 0, 0)}
    assert len(seeds) == 4


def test_an_epochs_order_is_that_of_version_0_1() -> None:
    assert (mix(0, 1), mix(3, 7)) == (8514611595135926838, 5540560351141022931)
    assert order("imbalanced").tolist()[:5] == [1, 664, 220, 550, 700]
