"""Unlike the training images to the network: rates, threads, damaged references, and untouched training."""

import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from support import odd_files
from support.model_runs import images, train

from pneumo import UserError
from pneumo.data.augment import normalise
from pneumo.data.images import preprocess
from pneumo.inference import model_folder, neighbours
from pneumo.inference.predictor import Predictor
from pneumo.models.head import Penultimate


def test_the_limit_holds_for_others_and_what_is_off_the_components_counts() -> None:
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(20, 5.0), np.full(40, 0.5)]
    train, val, other = (rng.normal(size=(count, 60)) * spread + 3 for count in (600, 400, 400))
    detector = neighbours.NeighbourDetector(neighbours.fit(train, val))
    assert np.mean([bool(found) for found in detector.reasons(val)]) <= 0.01
    assert np.mean([bool(found) for found in detector.reasons(other)]) <= 0.04
    shifted = other + 8 * spread * (np.arange(60) % 2)
    assert all(detector.reasons(shifted)) and "to the network" in detector.reasons(shifted)[0][0]
    # The same as the tenth nearest by brute force, where nothing is left out.
    few, known = rng.normal(size=(50, 8)), rng.normal(size=(200, 8))
    small = neighbours.NeighbourDetector(neighbours.fit(known, known[:50]))
    standard = [(part - known.mean(0)) / known.std(0) for part in (few, known)]
    expected = np.sort(np.linalg.norm(standard[0][:, None] - standard[1][None], axis=2), axis=1)[:, 9]
    np.testing.assert_allclose(small.distances(few), expected, rtol=0.02)


def test_each_thread_keeps_its_own_features(made: Path) -> None:
    bundle = model_folder.read(made)
    network, channels = bundle.network(), bundle.model["in_channels"]
    kept = Penultimate.of(network)
    assert kept is not None
    batches = [torch.from_numpy(images(4, seed)) for seed in range(4)]
    alone = [neighbours.features(network, batch.numpy(), channels, nullcontext) for batch in batches]
    barrier, wrong = threading.Barrier(len(batches)), []

    def compute(number: int) -> None:
        for _ in range(3):
            with torch.inference_mode():
                network(normalise(batches[number], channels))
            barrier.wait(timeout=60)
            if not np.allclose(kept.last(), alone[number], atol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not np.allclose(alone[0], alone[1], atol=1e-2)


def test_a_run_keeps_the_reference_and_what_is_no_x_ray_is_withheld(phantom_run: Path) -> None:
    bundle = model_folder.read(phantom_run)
    predictor = Predictor(bundle, num_workers=1)
    assert predictor.neighbours is not None
    rng, reasons = np.random.default_rng(0), []
    for kind in ("checkerboard", "noise"):
        picture = odd_files.strange(kind, odd_files.phantoms(1)[0], rng)
        square = preprocess(np.asarray(picture.convert("L")), **bundle.preprocess)
        bundle.probabilities(square[None], predictor.network)
        assert predictor.penultimate is not None
        reasons += predictor.neighbours.reasons(predictor.penultimate.last())
    assert all(reasons)
    assert bundle.ood_reference is not None
    old = model_folder.read(phantom_run)
    assert old.ood_reference is not None
    del old.ood_reference["features"]
    assert Predictor(old, num_workers=1).neighbours is None, "a model of an older version keeps its check"


@pytest.mark.parametrize("key", ["mean", "spread", "components", "bank", "features", "limit"])
def test_a_damaged_reference_is_refused(key: str) -> None:
    values = np.random.default_rng(0).normal(size=(40, 12))
    reference = neighbours.fit(values, values)
    for value in (None, [], {}, "x" * 50, [float("nan")], -1, True, "A" * 2_000_000, 10**400):
        with pytest.raises(UserError, match=r"reference of the network's features .* is damaged"):
            neighbours.NeighbourDetector({**reference, key: value})


def test_the_reference_changes_no_figure_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = train(tmp_path / "with")
    monkeypatch.setattr(neighbours, "fit_split", lambda *_: None)
    without = train(tmp_path / "without")
    for name in ("checkpoints/best.safetensors", "predictions/val.csv", "predictions/test.csv"):
        assert (with_it / name).read_bytes() == (without / name).read_bytes(), name
