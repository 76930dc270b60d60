"""The three architectures: they give torchvision's features from its weights and refuse other files."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from pneumo import UserError
from pneumo.models import MODELS, build_model
from pneumo.training.checkpoint import load_weights, save_weights

EXACT = {"rtol": 1e-5, "atol": 1e-5}
PUBLISHED = [name for name in MODELS if name in torchvision.models.list_models()]
CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # the first convolution sums in another order


def reference(name: str) -> nn.Module:
    """torchvision's network with random weights and random BatchNorm statistics."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(name, weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return network


def saved(state: dict[str, Tensor], path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def features(model: nn.Module, name: str, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.features(images) if name.startswith("resnet") else model.backbone(images)


def images(count: int = 2, channels: int = 3, size: int = 64) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, small convolutions on many threads mostly wait
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def references() -> dict[str, nn.Module]:
    return {name: reference(name) for name in PUBLISHED}


@pytest.fixture(scope="module")
def backbones(references: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {name: saved(model.state_dict(), folder / f"{name}.pth") for name, model in references.items()}


@pytest.mark.parametrize("kind", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_weights_give_torchvision_features(
    name: str, kind: str, references: dict[str, nn.Module], tmp_path: Path
) -> None:
    network = references[name]
    model = build_model(name, weights=saved(network.state_dict(), tmp_path / f"w{kind}")).eval()
    taken: list[Tensor] = []
    head = network.fc if name.startswith("resnet") else network.classifier
    handle = head.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    with torch.inference_mode():
        network(images())
    handle.remove()
    assert taken[0].std() > 1e-3
    torch.testing.assert_close(features(model, name, images()), taken[0], **EXACT)


@pytest.mark.parametrize(
    ("name", "width", "blocks"), [("resnet18", 512, [2] * 4), ("resnet50", 2048, [3, 4, 6, 3])]
)
def test_resnet_is_what_the_report_describes(name: str, width: int, blocks: list[int]) -> None:
    model = build_model(name, dropout=0.25)
    stages = [getattr(model, f"layer{number}") for number in (1, 2, 3, 4)]
    assert [len(stage) for stage in stages] == blocks
    kind = "BasicBlock" if name == "resnet18" else "Bottleneck"
    assert {type(block).__name__ for stage in stages for block in stage} == {kind}
    strided = "conv1" if name == "resnet18" else "conv2"
    assert [getattr(stage[0], strided).stride for stage in stages] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    sizes, x = [], model.maxpool(model.conv1(images(1)))
    for stage in stages:
        x = stage(x)
        sizes.append(tuple(x.shape[1:]))
    widest = width // 8
    assert sizes == [(widest, 16, 16), (2 * widest, 8, 8), (4 * widest, 4, 4), (8 * widest, 2, 2)]
    for number, stage in enumerate(stages, 1):
        first, *others = stage
        assert all(isinstance(block.downsample, nn.Identity) for block in others)
        if number == 1 and name == "resnet18":  # size and width stay the same
            assert isinstance(first.downsample, nn.Identity)
        else:
            conv, norm = first.downsample
            assert conv.kernel_size == (1, 1) and isinstance(norm, nn.BatchNorm2d)
    hidden, relu, dropout, out = model.fc
    assert (hidden.in_features, hidden.out_features) == (width, 50)
    assert isinstance(relu, nn.ReLU) and isinstance(dropout, nn.Dropout) and dropout.p == 0.25
    assert (out.in_features, out.out_features) == (50, 2)


def test_densenet_has_dropout_before_one_linear_layer() -> None:
    model = build_model("densenet121", dropout=0.3, num_classes=5)
    assert model.dropout.p == 0.3
    assert (model.classifier.in_features, model.classifier.out_features) == (1024, 5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_channel_gives_what_the_repeated_grey_gives(name: str, backbones: dict[str, str]) -> None:
    three = build_model(name, weights=backbones[name]).eval()
    one = build_model(name, in_channels=1, weights=backbones[name]).eval()
    first = "conv1.weight" if name.startswith("resnet") else "features.conv0.weight"
    torch.testing.assert_close(one.state_dict()[first], three.state_dict()[first].sum(1, keepdim=True))
    grey = images(channels=1)
    expected = features(three, name, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features(one, name, grey), expected, **CLOSE)
    four = build_model(name, in_channels=4, weights=backbones[name]).eval()
    torch.testing.assert_close(features(four, name, grey.expand(-1, 4, -1, -1)), expected, **CLOSE)


@pytest.mark.parametrize("in_channels", [1, 2, 5])
@pytest.mark.parametrize("name", PUBLISHED)
def test_other_channels_replace_the_first_convolution_alone(name: str, in_channels: int) -> None:
    shapes = {key: tuple(value.shape) for key, value in build_model(name).state_dict().items()}
    model = build_model(name, in_channels=in_channels)
    changed = [k for k, value in model.state_dict().items() if tuple(value.shape) != shapes[k]]
    assert changed == ["conv1.weight" if name.startswith("resnet") else "features.conv0.weight"]
    assert model(images(channels=in_channels)).shape == (2, 2)


@pytest.mark.parametrize("size", [32, 50, 224])
@pytest.mark.parametrize("name", MODELS)
def test_any_size_and_channels_last(name: str, size: int, backbones: dict[str, str]) -> None:
    model = build_model(name, weights=backbones.get(name)).eval()
    with torch.inference_mode():
        plain = model(images(size=size))
        model = model.to(memory_format=torch.channels_last)
        last = model(images(size=size).to(memory_format=torch.channels_last))
    assert plain.shape == (2, 2) and plain.isfinite().all()
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_model_of_ours_comes_back_with_its_head(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = build_model(name).eval()
    path = tmp_path / "best.safetensors"
    save_weights(path, model.state_dict(), {"epoch": 1})
    torch.manual_seed(4)
    again = build_model(name, weights=str(path)).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    loaded = build_model(name)
    load_weights(path, loaded)
    assert torch.equal(loaded.eval()(images()), model(images()))
    other_head = build_model(name, num_classes=3, weights=str(path))  # only the backbone fits
    torch.testing.assert_close(features(other_head.eval(), name, images()), features(model, name, images()))


def test_densenet_files_with_the_old_layer_names(references: dict[str, nn.Module], tmp_path: Path) -> None:
    state = references["densenet121"].state_dict()
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}
    assert old.keys() != state.keys()
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    model = build_model("densenet121", weights=saved(old, tmp_path / "old.pth"))
    assert torch.equal(model.features.norm5.weight, references["densenet121"].features.norm5.weight)


class Payload:
    """Unsafe unpickling of this would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "executed"
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "x": Payload(mark)}
    if legacy:
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path)
    with pytest.raises(UserError, match=r"model\.weights=.*evil"):
        build_model("resnet18", weights=str(path))
    assert not mark.exists()


def test_files_that_are_no_weights_of_this_model(backbones: dict[str, str], tmp_path: Path) -> None:
    def refused(match: str, path: object, name: str = "resnet18") -> None:
        with pytest.raises(UserError, match=match) as raised:
            build_model(name, weights=str(path))
        assert str(path) in str(raised.value)

    refused("does not fit model.name=resnet18: it lacks .* and 95 more", backbones["densenet121"])
    refused("does not fit model.name=resnet50", backbones["resnet18"], "resnet50")
    refused("is not a file", tmp_path / "missing.pth")
    refused("is not a file", tmp_path)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("these are not the weights you look for\n")
        refused("cannot be read|is not a state dict", tmp_path / name)
    (tmp_path / "empty.pth").touch()
    refused("cannot be read|is not a state dict", tmp_path / "empty.pth")
    whole = Path(backbones["resnet18"]).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    refused("cannot be read|is not a state dict", tmp_path / "cut.pth")
    for number, strange in enumerate([{1: torch.zeros(1)}, [torch.zeros(1)], {"epoch": 3}, torch.zeros(2)]):
        torch.save(strange, tmp_path / f"strange{number}.pth")
        refused("is not a state dict", tmp_path / f"strange{number}.pth")
    state = dict(torch.load(backbones["resnet18"], weights_only=True))
    refused(
        "has the unknown extra.weight", saved({**state, "extra.weight": torch.zeros(1)}, tmp_path / "a.pth")
    )
    refused(
        "has other shapes for conv1", saved({**state, "conv1.weight": torch.zeros(64)}, tmp_path / "b.pth")
    )
    refused("lacks bn1", saved({k: v for k, v in state.items() if "bn1" not in k}, tmp_path / "c.pth"))


def test_an_unknown_name_lists_the_models() -> None:
    with pytest.raises(
        UserError, match=r"model.name=resnet81.*resnet18, resnet50, densenet121.*Did you mean"
    ):
        build_model("resnet81")


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value")])
@pytest.mark.parametrize("name", PUBLISHED)
def test_pretrained_without_network(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(
        UserError, match=r"model\.pretrained=true.*(no route|invalid hash).*model\.weights=PATH"
    ):
        build_model(name, pretrained=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Puts a file into torchvision's cache as its weights of ResNet-18."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def put(file: Path, digest: str = "") -> Path:
        known = digest or hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        weights = torchvision.models.get_model_weights("resnet18").DEFAULT
        where = f"https://127.0.0.1:1/models/resnet18-{known}.pth"
        monkeypatch.setattr(type(weights), "url", property(lambda _: where))
        target = tmp_path / "hub" / "hub" / "checkpoints" / f"resnet18-{known}.pth"
        target.parent.mkdir(parents=True)
        shutil.copy(file, target)
        return target

    return put


def test_pretrained_takes_a_cached_file_whose_hash_is_right(
    hub: Callable[[Path], Path], backbones: dict[str, str]
) -> None:
    hub(Path(backbones["resnet18"]))
    model = build_model("resnet18", pretrained=True)
    state = torch.load(backbones["resnet18"], weights_only=True)
    torch.testing.assert_close(model.state_dict()["conv1.weight"], state["conv1.weight"])


def test_pretrained_refuses_a_cached_file_of_another_hash(
    hub: Callable[..., Path], backbones: dict[str, str]
) -> None:
    target = hub(Path(backbones["resnet18"]), digest="0" * 8)
    with pytest.raises(UserError, match=r"was exchanged: its SHA-256 begins with .*, not 00000000\. Delete"):
        build_model("resnet18", pretrained=True)
    assert target.exists()


def test_pretrained_runs_no_code_of_a_cached_file(hub: Callable[[Path], Path], tmp_path: Path) -> None:
    """Eight digits of a hash can be found by trying, so the file's content is not trusted either."""
    torch.save({"conv1.weight": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    hub(tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        build_model("resnet18", pretrained=True)
    assert not (tmp_path / "ran").exists()
