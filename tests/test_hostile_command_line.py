"""Any typo or odd file gets one clear message and the right exit code, and leaves nothing half-made."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROJECT as ROOT
from support.commands import Command, Ending
from support.images import GREY, encoded, png

from pneumo.config_files import shipped_dir
from pneumo.models import MODELS


def check_words(ending: Ending, code: int, words: tuple[str, ...]) -> None:
    said = ending.out + ending.err
    assert ending.code == code, said
    assert ending.err.startswith("error: ") and ending.err.count("error:") == 1, said
    for word in words:
        assert word in ending.err, (word, said)
    for noise in ("Traceback", "Config search path", "full_key", "object_type", "HYDRA_FULL_ERROR", 'File "'):
        assert noise not in said, said


def nothing_half_made(folder: Path) -> None:
    """No cache, not even half of one, and no run begun (Hydra makes the empty output folder)."""
    assert not [entry for entry in (folder / "cache").glob("*") if entry.is_dir()]
    assert not [file for file in (folder / "outputs").rglob("*") if file.is_file() and file.suffix != ".yaml"]


MODEL_NAMES = ", ".join(sorted(MODELS))
TYPOS = [
    (("model=resnet19",), ("model=resnet19", MODEL_NAMES, "Did you mean resnet18?")),
    (("sampler=imbalance",), ("sampler=imbalance", "imbalanced, shuffle, weighted")),
    (("experiment=nope",), ("experiment=nope", "seed_report")),
    (("--multirun", "model=resnet18,resnet19"), ("model=resnet19", MODEL_NAMES)),
    (("modle=resnet18",), ("key modle", "model, sampler, augment", "Did you mean model?")),
    (("model.drpout=0.1",), ("key model.drpout", "model has name, dropout", "Did you mean model.dropout?")),
    (("trainer.epoch=3",), ("key trainer.epoch", "Did you mean trainer.epochs?")),
    (("data.phantom.sed=3",), ("data.phantom.sed", "data.phantom has train_patients", "data.phantom.seed?")),
    (("lr=3e-4",), ("key lr", "Did you mean optim.lr?")),
    (("trainer.lr=3e-4",), ("key trainer.lr", "Did you mean optim.lr?")),
    (("foo.bar=1",), ("key foo", "the top level has model")),
    (("+foo=1",), ("key foo is not known", "the top level has model")),
    (("+data.foo=1",), ("key data.foo is not known", "data has name, root")),
    (("++model.foo=1",), ("key model.foo is not known", "model has name")),
    (("hydra.foo=1",), ("key hydra.foo is not known",)),
    (("trainer.epochs=abc",), ("trainer.epochs=abc", "a whole number", "trainer.epochs=")),
    (("trainer.epochs=1.5",), ("trainer.epochs=1.5", "a whole number")),
    (("trainer.epochs=",), ("trainer.epochs= is not a whole number",)),
    (("trainer.epochs=null",), ("trainer.epochs=null is not a whole number",)),
    (("trainer.limit_batches=x",), ("trainer.limit_batches=x", "a whole number or null")),
    (("optim.lr=1e-3x",), ("optim.lr=1e-3x", "is not a number")),
    (("force=maybe",), ("force=maybe", "true or false")),
    (("seed=x",), ("seed=x is not a whole number",)),
    (("model.dropout=2",), ("model.dropout=2", "at least 0 and below 1")),
    (("trainer.precision=bf17",), ("trainer.precision=bf17", "float32, tf32, bf16, fp16", "mean bf16?")),
    (("data.image_size=4",), ("data.image_size=4", "16 and 2048")),
    (("data.on_bad_image=ignore",), ("data.on_bad_image=ignore", "error, skip")),
    (("model=null",), ("model=null", MODEL_NAMES)),
    (("trainer=3",), ("trainer=3", "the options are default")),
    (("trainer",), ("'trainer'", "group=option or key=value")),
    (("trainer.epochs=[1",), ("'trainer.epochs=[1'", "group=option or key=value")),
    (("model=resnet18,densenet121",), ("model=resnet18,densenet121", "--multirun")),
    (("+model._target_=os.system",), ("+model._target_=os.system", "no class or function")),
    (("hydra.launcher._target_=os.system",), ("no class or function",)),
    (("+hydra.callbacks.x={_target_: os.system, command: 'touch made'}",), ("no class or function",)),
    (("sweep=a,b",), ("sweep=a,b", "one sweep at a time")),
    (("trainer.device=gpu",), ("trainer.device=gpu", "auto, cpu, cuda")),
    (("trainer.device=cpu:x",), ("trainer.device=cpu:x", "auto, cpu, cuda")),
    (("trainer.compile=maybe",), ("trainer.compile=maybe", "auto, true, false")),
    (("--mulitrun", "seed=1,2"), ("--mulitrun is not a flag", "Did you mean --multirun?")),
]


@pytest.mark.parametrize(("arguments", "words"), TYPOS, ids=[" ".join(case[0]) for case in TYPOS])
def test_a_typo_is_answered_with_what_there_is(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ending = command("train", *arguments, "data=phantom")
    check_words(ending, 2, words)
    nothing_half_made(tmp_path)


def test_a_wrong_value_in_a_file_is_named_too(command: Command, tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ntrainer:\n  epochs: many\n"
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text(text)
    ending = command("train", "--config-dir", str(tmp_path / "more"), "experiment=mine", "data=phantom")
    check_words(ending, 2, ("trainer.epochs=many", "a whole number"))


@pytest.fixture
def own_options(tmp_path: Path) -> Path:
    """A user's folder with a copied sweep, a sweep without its first line, a model and an optimiser."""
    sweeps, own = shipped_dir("sweeps"), tmp_path / "own"
    for group in ("sweep", "model", "optim"):
        (own / group).mkdir(parents=True)
    shipped = (sweeps / "dropout_lr.yaml").read_text()
    (own / "sweep" / "copied.yaml").write_text(shipped)
    (own / "sweep" / "bare.yaml").write_text(shipped.partition("\n")[2])
    (own / "model" / "dropped.yaml").write_text("# Half is dropped.\ndefaults: [resnet18]\ndropout: 0.5\n")
    text = (shipped_dir("conf") / "optim" / "adamw.yaml").read_text().replace("1e-3", "5e-4")
    (own / "optim" / "slow.yaml").write_text(text)
    return own


def test_options_of_ones_own_are_taken_and_listed(command: Command, own_options: Path) -> None:
    line = ("train", "--config-dir", str(own_options))
    ending = command(*line, "model=dropped", "optim=slow", "data=phantom", "--cfg", "job")
    assert ending.code == 0 and "dropout: 0.5" in ending.out and "lr: 0.0005" in ending.out, ending
    ending = command(*line, "sweep=copied", "data=phantom", "--cfg", "hydra")
    assert ending.code == 0 and "mode: MULTIRUN" in ending.out, ending
    ending = command(*line, "--help")
    assert "sweep=architectures|bare|copied|" in ending.out and "optim=adamw|sgd|slow" in ending.out
    assert "Half is dropped." in ending.out
    assert "copied" not in command("train", "--help").out


def test_a_sweep_file_without_its_first_line_is_explained(command: Command, own_options: Path) -> None:
    ending = command("train", "--config-dir", str(own_options), "sweep=bare", "data=phantom")
    check_words(ending, 2, ("must begin with the line `# @package _global_`",))


def test_a_missing_environment_variable_is_named(command: Command) -> None:
    ending = command("data", "check", "data.root=${oc.env:PNEUMO_NOT_SET}")
    check_words(ending, 2, ("data.root", "PNEUMO_NOT_SET is not set"))


def test_a_mistake_of_ours_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError in a job that is not a UserError must not look like wrong usage."""
    from pneumo import run

    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(run, "run", broken)
    with pytest.raises(ValueError, match="a bug"):
        command("train", "data=phantom")


# ---- data


def test_a_missing_root(command: Command, tmp_path: Path) -> None:
    ending = command("train", "data.root=nowhere")
    check_words(ending, 1, ("data.root=nowhere", "`pneumo data fetch", "data.root=DIR", "data=phantom"))
    nothing_half_made(tmp_path)


CSVS = [
    ("path,lable\na.png,0\n", ("train.csv", "no column label", "path, lable")),
    ("path,label\na.png,0\nb.png,7\n", ("train.csv, line 3", "'7'", "0 or NORMAL, 1 or PNEUMONIA")),
    ("path,label\n../a.png,0\n", ("train.csv, line 2", "'../a.png'", "leaves data.root")),
    ("path,label\n/etc/passwd,0\n", ("'/etc/passwd'", "leaves data.root")),
    ("path,label\nbell\x07.png,7\n", ("train.csv, line 2",)),
    ("", ("train.csv", "cannot be read as CSV")),
]


@pytest.mark.parametrize(("text", "words"), CSVS)
def test_a_hostile_csv(command: Command, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.csv").write_text(text)
    ending = command("train", "data=csv", f"data.root={tmp_path}/set")
    check_words(ending, 1, words)
    nothing_half_made(tmp_path)


def spoiled(root: Path) -> dict[str, str]:
    """Four unreadable images in a good set, and what must be said of each."""
    jpeg = encoded(GREY, "JPEG")
    files = {
        "IM-0001-0091.jpeg": (b"", "the file is empty"),
        "IM-0001-0092.jpeg": (jpeg[: len(jpeg) // 2], "damaged"),
        "IM-0001-0093.jpeg": (b"Dear Sir or Madam\n", "not a JPEG, PNG, TIFF"),
        "IM-0001-0094.png": (png(30_000, 30_000, 1, 0, b"\0" * 99), "more pixels than the limit"),
    }
    for name, (content, _) in files.items():
        (root / "train" / "NORMAL" / name).write_bytes(content)
    return {f"train/NORMAL/{name}": reason for name, (_, reason) in files.items()}


def test_unreadable_images_are_all_named_before_training(
    command: Command, kaggle: Path, tmp_path: Path
) -> None:
    bad = spoiled(kaggle)
    ending = command("train", f"data.root={kaggle}", "data.image_size=32", "data.num_workers=1")
    check_words(ending, 1, ("4 images cannot be read", "data.on_bad_image=skip"))
    for path, reason in bad.items():
        assert any(path in line and reason in line for line in ending.err.splitlines()), ending.err
    nothing_half_made(tmp_path)


def test_a_password_in_the_address_is_nowhere(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in config.yaml, the journal, the sender's notes, nor a traceback that names the address."""
    uri = "http://me:s3cret@127.0.0.1:9"

    def broken(*_: object) -> None:
        raise RuntimeError(f"no answer from {uri}")

    monkeypatch.setattr("pneumo.training.trainer.Trainer.fit", broken)
    small = "data=phantom data.phantom.train_patients=40 data.phantom.test_patients=16 data.image_size=32"
    ending = command("train", *small.split(), "tracking.flush_s=0", f"tracking.uri={uri}")
    assert ending.code == 1, ending.err
    assert "s3cret" not in ending.out + ending.err
    assert "no answer from http://127.0.0.1:9" in ending.err
    files = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert {"config.yaml", "journal.jsonl", "traceback.txt"} <= {file.name for file in files}
    assert not [file for file in files if b"s3cret" in file.read_bytes()]


def test_a_name_cannot_steer_the_terminal(command: Command, kaggle: Path) -> None:
    (kaggle / "train" / "NORMAL" / "\x1b[2Jx.jpeg").write_bytes(b"")
    ending = command("train", f"data.root={kaggle}")
    check_words(ending, 1, ("\\x1b[2Jx.jpeg", "`patient` column"))
    assert "\x1b" not in ending.err


# ---- as a user sees it: in a separate process


@pytest.mark.parametrize(
    ("module", "arguments", "code", "words"),
    [
        ("train", ("model=resnet19",), 2, f"the options are {MODEL_NAMES}"),
        ("train", ("data.root={root}", "data.image_size=32"), 1, "4 images cannot be read"),
        ("data", ("check", "data.root={root}"), 1, "unreadable files stop training"),
    ],
)
def test_from_a_shell(
    kaggle: Path, tmp_path: Path, module: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    spoiled(kaggle)
    told = [argument.format(root=kaggle) for argument in arguments]
    command = [sys.executable, "-m", f"pneumo.{module}", *told, f"output_dir={tmp_path}/outputs"]
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
        "PNEUMO_CACHE": str(tmp_path / "cache"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert not [*(tmp_path / "cache").glob("*.tmp*")]
    if module == "train":
        nothing_half_made(tmp_path)
