"""What each command is for, and how its command line reads. Help, completion and dispatch use this."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PURPOSE = "Train, sweep and fairly compare chest X-ray classifiers with Hydra and MLflow."
RUN_FORMS = "an MLflow run id or a fingerprint (or a prefix of either), a run's name or its folder"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, or one sub-command.

    `word` is the key that a word without "=" gives a value to. `paths` are the keys whose values are used as
    typed; those in `lists` also take [A,B]. `renamed` maps old spellings of keys to today's.
    """

    purpose: str
    examples: tuple[str, str, str]
    module: str = ""  # where `main` is; empty for a sub-command
    config_name: str = ""  # conf/NAME.yaml holds its keys
    groups: tuple[str, ...] | None = None  # the groups of conf/ that its help shows; None: all of them
    word: str | None = None
    paths: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, "Command"] = field(default_factory=dict)


_TRAIN_PATHS = ("data.root", "data.table", "data.cache_dir", "model.weights", "output_dir")
_RUN = {"word": "which", "paths": ("which", "output_dir", "cache_dir", "output")}

COMMANDS: dict[str, Command] = {
    "train": Command(
        purpose="train one configuration, or a sweep of them",
        examples=(
            "pneumo train data=phantom data.image_size=64 trainer.epochs=2",
            "pneumo train --multirun model=resnet18,densenet121 seed=0,1,2",
            "pneumo train sweep=dropout_lr trainer.epochs=10",
        ),
        module="pneumo.train",
        config_name="train",
        paths=_TRAIN_PATHS,
    ),
    "compare": Command(
        purpose="compare the finished runs of an experiment: a table, a page and figures",
        examples=(
            "pneumo compare tracking.experiment=pneumo",
            "pneumo compare sweep_id=dropout_lr-0123456789 rank_by=auroc",
            "pneumo compare 'predictions=[a.csv,b.csv]' output=reports/mine",
        ),
        module="pneumo.compare",
        config_name="compare",
        paths=("output", "data.root", "predictions"),
        lists=("predictions",),
        renamed={"experiment": "tracking.experiment", "sweep": "sweep_id"},
    ),
    "predict": Command(
        purpose="apply a trained model to X-rays: one row for each file",
        examples=(
            "pneumo predict model=models:/pneumo@champion input=DIR",
            "pneumo predict model=RUN_ID 'input=[a.png,b.png]' output=out.json explain=true",
            "pneumo predict model=models:/pneumo/3 ui=true",
        ),
        module="pneumo.predict",
        config_name="predict",
        paths=("model", "input", "output", "output_dir", "cache_dir"),
        lists=("input",),
    ),
    "evaluate": Command(
        purpose="score trained models on their own test set, once, or on another labelled set",
        examples=(
            "pneumo evaluate model=RUN split=test",
            "pneumo evaluate sweep_id=dropout_lr-0123456789 data=csv data.root=DIR name=city_hospital",
            "pneumo evaluate model=models:/pneumo@champion data=csv data.table=FILE 'by=[sex,age,view]'",
        ),
        module="pneumo.evaluate",
        config_name="evaluate",
        renamed={"sweep": "sweep_id"},
        paths=("model", "output", "output_dir", "cache_dir", "data.root", "data.table", "data.cache_dir"),
    ),
    "runs": Command(
        purpose="look at finished and unfinished runs, and use them",
        examples=(
            "pneumo runs status",
            "pneumo runs reproduce RUN run=true",
            "pneumo runs register RUN alias=champion",
        ),
        module="pneumo.runs",
        actions={
            "status": Command(
                purpose="show each run, or each job of a sweep: state, epoch, score and time left",
                examples=(
                    "pneumo runs status",
                    "pneumo runs status sweep_id=dropout_lr-0123456789 watch=5",
                    "pneumo runs status RUN output_dir=outputs",
                ),
                config_name="runs_status",
                renamed={"sweep": "sweep_id"},
                **_RUN,  # type: ignore[arg-type]
            ),
            "sync": Command(
                purpose="send the tracking server what it lacks; safe to repeat, and to run in two terminals",
                examples=(
                    "pneumo runs sync",
                    "pneumo runs sync RUN",
                    "pneumo runs sync tracking.uri=http://127.0.0.1:5000",
                ),
                config_name="runs_sync",
                **_RUN,  # type: ignore[arg-type]
            ),
            "reproduce": Command(
                purpose="print the command of a run; with run=true train it again and compare every figure",
                examples=(
                    "pneumo runs reproduce 0123456789abcdef",
                    "pneumo runs reproduce outputs/0123456789abcdef",
                    "pneumo runs reproduce RUN run=true",
                ),
                config_name="runs_reproduce",
                **_RUN,  # type: ignore[arg-type]
            ),
            "register": Command(
                purpose="register a run's model in MLflow and give it an alias, unless it is worse",
                examples=(
                    "pneumo runs register RUN alias=champion",
                    "pneumo runs register RUN alias=candidate name=chest",
                    "pneumo runs register RUN alias=champion force=true",
                ),
                config_name="runs_register",
                renamed={"data.cache_dir": "cache_dir"},
                **_RUN,  # type: ignore[arg-type]
            ),
            "recalibrate": Command(
                purpose="calibrate a model and set its threshold for a new site, from labelled images of it",
                examples=(
                    "pneumo runs recalibrate models:/pneumo@champion data=csv data.root=DIR",
                    "pneumo runs recalibrate RUN data=csv data.table=FILE alias=city_hospital",
                    "pneumo runs recalibrate MODEL_FOLDER data=csv data.root=DIR output=NEW_FOLDER",
                ),
                config_name="runs_recalibrate",
                word="which",
                paths=(
                    *("which", "output", "wheel", "output_dir", "cache_dir"),
                    *("data.root", "data.table", "data.cache_dir"),
                ),
            ),
            "export": Command(
                purpose="write a model as ONNX",
                examples=(
                    "pneumo runs export models:/pneumo@champion output=model.onnx",
                    "pneumo runs export RUN output=model.onnx",
                    "pneumo runs export outputs/0123456789abcdef output=model.onnx",
                ),
                config_name="runs_export",
                renamed={"data.cache_dir": "cache_dir"},
                **_RUN,  # type: ignore[arg-type]
            ),
        },
    ),
    "data": Command(
        purpose="get the images, check them, prepare them before training",
        examples=(
            "pneumo data fetch",
            "pneumo data check data=csv data.root=DIR",
            "pneumo data cache data.image_size=112",
        ),
        module="pneumo.data_command",
        actions={
            "fetch": Command(
                purpose="download the public set from Kaggle (1.2 GB) into data.root, then check it",
                examples=(
                    "pneumo data fetch",
                    "pneumo data fetch data.root=/data/chest_xray",
                    "pneumo data fetch data.root=DIR data.on_bad_image=skip",
                ),
                config_name="train",
                groups=("data",),
                paths=_TRAIN_PATHS,
            ),
            "check": Command(
                purpose="report splits, classes, patients, copies and unreadable files; exit 1 on a problem",
                examples=(
                    "pneumo data check",
                    "pneumo data check data=csv data.table=labels.csv data.positive=[Pneumonia]",
                    "pneumo data check data=nih14 data.root=DIR",
                ),
                config_name="train",
                groups=("data",),
                paths=_TRAIN_PATHS,
            ),
            "cache": Command(
                purpose="prepare the images now, so that no run has to wait for it",
                examples=(
                    "pneumo data cache",
                    "pneumo data cache data.image_size=112",
                    "pneumo data cache data=csv data.root=DIR data.cache_dir=/fast/disk",
                ),
                config_name="train",
                groups=("data",),
                paths=_TRAIN_PATHS,
            ),
            "cache list": Command(
                purpose="show prepared images and fetched models on disk: size, age, what nothing new uses",
                examples=(
                    "pneumo data cache list",
                    "pneumo data cache list cache_dir=/fast/disk",
                    "pneumo data cache list cache_dir=.cache",
                ),
                config_name="data_cache_list",
                paths=("cache_dir",),
                renamed={"data.cache_dir": "cache_dir"},
            ),
            "cache prune": Command(
                purpose="remove from the cache what nothing new uses; lists it only, unless dry_run=false",
                examples=(
                    "pneumo data cache prune",
                    "pneumo data cache prune dry_run=false",
                    "pneumo data cache prune unused_days=30 dry_run=false",
                ),
                config_name="data_cache_prune",
                paths=("cache_dir",),
                renamed={"data.cache_dir": "cache_dir"},
            ),
            "copies": Command(
                purpose="find images that were saved again with another quality, size or crop",
                examples=(
                    "pneumo data copies",
                    "pneumo data copies data=csv data.root=DIR",
                    "pneumo data copies output=pairs.csv",
                ),
                config_name="data_copies",
                paths=("data.root", "data.cache_dir", "output"),
            ),
            "labels": Command(
                purpose="rank the images whose label may be wrong",
                examples=(
                    "pneumo data labels",
                    "pneumo data labels data=csv data.root=DIR",
                    "pneumo data labels output=ranking.csv",
                ),
                config_name="data_labels",
                paths=("data.root", "data.cache_dir", "output"),
            ),
            "shortcuts": Command(
                purpose="predict the label from size, file type, JPEG quality, border and mean level alone",
                examples=(
                    "pneumo data shortcuts",
                    "pneumo data shortcuts data=csv data.root=DIR",
                    "pneumo data shortcuts data.num_workers=4",
                ),
                config_name="train",
                groups=("data",),
                paths=_TRAIN_PATHS,
            ),
        },
    ),
    "ui": Command(
        purpose="serve MLflow's pages on 127.0.0.1 and open the experiment",
        examples=(
            "pneumo ui",
            "pneumo ui tracking.experiment=demo port=5001",
            "pneumo ui tracking.uri=sqlite:////data/mlflow.db open=false",
        ),
        module="pneumo.ui",
        config_name="ui",
    ),
}


def find(name: str) -> Command:
    """The command `train`, or the sub-command `runs status`. KeyError for a name that does not exist."""
    first, _, action = name.partition(" ")
    return COMMANDS[first].actions[action] if action else COMMANDS[first]
