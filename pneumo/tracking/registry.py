"""Models in MLflow: found by name, alias or run as a folder of files, and registered from such a folder.

Files are copied as data, only those named here; nothing in them is loaded.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

import yaml

from pneumo import UserError, __version__
from pneumo.files import LOCK_WAIT_S, MAX_MODEL_BYTES, local_folder, locked
from pneumo.names import (
    BEST_WEIGHTS,
    FETCHED_MODELS,
    MODEL_CARD,
    SCORED_TAG,
    SITE_TAG,
    TRAINING_IMAGES,
    TRAINING_REFERENCE,
)
from pneumo.tracking.journal import redact
from pneumo.tracking.mlflow_client import artifact_repository, error_code, file_sizes, lacks_logged_models
from pneumo.tracking.reading import FILES, Reader, TrackedRun, tracked

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, a model's folder, or a run: id, fingerprint, name, folder"
MODEL_FILES = ("model.safetensors", "model.json", "model_card.md")
RUN_FILES = (BEST_WEIGHTS, TRAINING_REFERENCE, TRAINING_IMAGES, *FILES)
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for an alias
MAX_DESCRIPTION_CHARS = 5000  # of a model version, in MLflow's databases
RUN_ID = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d{1,9}))")
_LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")
WHEELS = "wheels"  # in a model folder: what an environment that serves it installs
NO_WHEEL = (
    f"pneumo {__version__} must be in the environment: register with wheel=FILE to install it from here"
)
_FOLDER_IN_RUN = "model"  # of a model that is registered on a server without logged models
T = TypeVar("T")


@dataclass(kw_only=True)
class Resolved:
    """Where a model's files are on this machine, and its name: "pneumo 3", a run id, or the folder."""

    folder: Path
    version: str
    run_id: str | None = None


def resolve(model: str, uri: str, cache: Path) -> Resolved:
    """The files of `model` (see FORMS), fetched from the tracker at `uri` into `cache` where they are not
    local; UserError where there is no such model."""
    if not model.startswith(("models:/", "runs:/")):
        folder = Path(model).expanduser()
        if folder.is_dir():
            return Resolved(folder=folder, version=str(folder))
        if not RUN_ID.fullmatch(model):
            raise UserError(f"model={model} is neither a folder nor a known run; give {FORMS}.")
    return Registry(uri, cache).resolve(model)


class Registry(Reader):
    """The models of one tracking server."""

    def __init__(self, uri: str, cache: Path) -> None:
        super().__init__(uri)
        self.cache = cache.expanduser() / FETCHED_MODELS

    # ---- finding

    def resolve(self, model: str) -> Resolved:
        if match := _MODEL.fullmatch(model):
            name, alias, version = match["name"], match["alias"], match["version"]
            if alias:
                ask = partial(self._client.get_model_version_by_alias, name, alias)
            else:
                ask = partial(self._client.get_model_version, name, version)
            found = self._maybe(ask)
            if found is None:
                raise UserError(f"model={model} is not in {redact(self.uri)}; {self._known(name)}.")
            return self._version_files(found)
        if match := _LOGGED.fullmatch(model):
            logged = self._wanted(partial(self._client.get_logged_model, match[1]), f"model={model}")
            folder = self._files(logged.artifact_location, MODEL_FILES + RUN_FILES, logged.model_id)
            return Resolved(folder=folder, version=logged.model_id, run_id=logged.source_run_id)
        run_id = model.removeprefix("runs:/")
        if not RUN_ID.fullmatch(run_id):
            raise UserError(f"model={model} is not of a known form; give {FORMS}.")
        run = self.run(run_id)
        return Resolved(folder=self.run_folder(run), version=run_id, run_id=run_id)

    def run(self, run_id: str) -> TrackedRun:
        found = self._wanted(lambda: self._client.get_run(run_id), f"run {run_id}")
        if found.info.lifecycle_stage != "active":
            raise UserError(f"run {run_id} was deleted; `mlflow runs restore --run-id {run_id}` restores it.")
        self._experiment_id = found.info.experiment_id
        return tracked(found)

    def run_folder(self, run: TrackedRun) -> Path:
        """The artifacts of a run that make a model."""
        mark = f"{run.run_id} {run.status}"
        if scored := run.tags.get(SCORED_TAG):  # its test predictions may have come after a first download
            mark = f"{mark} {scored}"
        return self._files(run.artifact_uri, RUN_FILES, mark)

    def holder(self, name: str, alias: str) -> Resolved | None:
        """The version that `alias` names; None where there is none."""
        found = self._maybe(lambda: self._client.get_model_version_by_alias(name, alias))
        return None if found is None else self._version_files(found)

    def version_at(self, name: str, alias: str) -> str | None:
        """The number of the version that `alias` names; None where there is none."""
        found = self._maybe(lambda: self._client.get_model_version_by_alias(name, alias))
        return None if found is None else str(found.version)

    def version_of(self, name: str, run_id: str, site: str = "") -> str | None:
        """The first version of `name` that stems from a run; None where there is none.

        `site` is the digest of the images that the version was recalibrated on; empty: it was not.
        """
        query = f"name = '{_quoted(name)}' and run_id = '{run_id}'"
        versions = self._ask(lambda: self._client.search_model_versions(query))
        same = (str(version.version) for version in versions if version.tags.get(SITE_TAG, "") == site)
        return min(same, key=int, default=None)

    def _version_files(self, version: Any) -> Resolved:
        location = version.source
        if match := _LOGGED.fullmatch(location):
            logged = self._wanted(partial(self._client.get_logged_model, match[1]), location)
            location = logged.artifact_location
        mark = f"{version.name} {version.version} {version.creation_timestamp}"
        return Resolved(
            folder=self._files(location, MODEL_FILES + RUN_FILES, mark),
            version=f"{version.name} {version.version}",
            run_id=version.run_id or None,
        )

    def _known(self, name: str) -> str:
        model = self._maybe(lambda: self._client.get_registered_model(name))
        if model is None:
            names = sorted(entry.name for entry in self._ask(self._client.search_registered_models))
            return f"the registered models are {', '.join(names) or 'none'}"
        aliases = [f"@{alias} (version {number})" for alias, number in sorted(model.aliases.items())]
        versions = self._ask(lambda: self._client.search_model_versions(f"name = '{_quoted(name)}'"))
        numbers = sorted(int(version.version) for version in versions)
        return f"{name} has the versions {numbers} and the aliases {', '.join(aliases) or 'none'}"

    def _files(self, location: str, names: tuple[str, ...], mark: str) -> Path:
        """A folder with those of the files `names` below `location` that are there."""
        local = local_folder(location)
        if local is not None:
            if not local.is_dir():
                raise UserError(
                    f"its files should be in {local}, which does not exist. MLflow's database holds absolute "
                    "paths: if the project folder was moved, move it back, or link the old place to the new "
                    f"one: ln -s NEW_FOLDER {local.parents[2]}"
                )
            return local
        target = self.cache / hashlib.sha256(f"{redact(location)} {mark}".encode()).hexdigest()[:32]
        # It appeared whole, and nothing changes in a version or a finished run. Version 0.1 also kept an
        # empty folder, of a server whose artifact store was not there.
        if target.is_dir() and any(target.iterdir()):
            with suppress(OSError):
                os.utime(target)  # when it was last used, for `pneumo data cache list`
            return target
        self.cache.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=".fetch-", dir=self.cache))
        try:
            self._ask(lambda: self._download(location, names, aside))
            if not any(aside.iterdir()):
                raise UserError(
                    f"{redact(location)} holds none of a model's files, such as {names[0]}. Were "
                    "they sent (pneumo runs sync verify=true), and can the server reach its artifact store?"
                )
            with suppress(OSError):  # another process was first
                aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return target

    def _download(self, location: str, names: tuple[str, ...], target: Path) -> None:
        repository = artifact_repository(location, self.uri)
        sizes = file_sizes(repository, names)
        for name in names:
            if name not in sizes:
                continue  # the reader of the folder says what is missing
            if sizes[name] > MAX_MODEL_BYTES:
                raise UserError(f"{name} of {redact(location)} has {sizes[name]:,} bytes: it is not a model.")
            repository.download_artifacts(name, dst_path=str(target))

    # ---- registering

    def register(
        self, folder: Path, run: TrackedRun, name: str, tags: Mapping[str, str], served: "ServingSpec"
    ) -> str:
        """Log the model folder as an MLflow model of `run` and register it; its version.

        A run that is registered under `name` gives the version it has; recalibrated for a site (SITE_TAG of
        `tags`), it has another one for each site. MLflow lets two machines register a
        run at the same time. Each then looks for the run's versions: the first stays, and the machine that
        made a later one deletes it.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        with locked(self.cache / "register.lock", LOCK_WAIT_S):
            site = tags.get(SITE_TAG, "")
            if known := self.version_of(name, run.run_id, site):
                return known
            made, model_id = self._ask(lambda: self._register(folder, run, name, dict(tags), served))
            first = self.version_of(name, run.run_id, site) or made
            if first != made:
                self._ask(lambda: self._client.delete_model_version(name, made))
                if model_id is not None:
                    self._ask(lambda: self._client.delete_logged_model(model_id))
            return first

    def _register(
        self, folder: Path, run: TrackedRun, name: str, tags: dict[str, str], served: "ServingSpec"
    ) -> tuple[str, str | None]:
        """The version, and the id of the logged model that it consists of."""
        client = self._client
        try:
            model_id = self._log_model(folder, run, name, tags, served)
            source = f"models:/{model_id}"
        except Exception as error:
            if not lacks_logged_models(error):
                raise
            model_id, source = None, self._log_in_run(folder, run, served, tags.get(SITE_TAG, ""))
        if self._maybe(lambda: client.get_registered_model(name)) is None:
            try:
                client.create_registered_model(name)
            except Exception as error:
                if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
        with _default_tracker(self.uri):  # where MLflow looks for the source, whatever URI its client has
            version = client.create_model_version(
                name,
                source,
                run.run_id,
                tags=tags,
                description=(folder / MODEL_CARD).read_text()[:MAX_DESCRIPTION_CHARS],
                model_id=model_id,
            )
        return str(version.version), model_id

    def _log_model(
        self, folder: Path, run: TrackedRun, name: str, tags: dict[str, str], served: "ServingSpec"
    ) -> str:
        """Upload the model folder as a logged model of `run`; its id."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        client = self._client
        logged = client.create_logged_model(
            self._experiment_id, name=name, source_run_id=run.run_id, tags=tags, model_type="classifier"
        )
        try:
            _describe(folder, run.run_id, logged.model_id, served)
            client.log_model_artifacts(logged.model_id, str(folder))
        except BaseException:
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            raise
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        client.log_outputs(run.run_id, models=[LoggedModelOutput(logged.model_id, 0)])
        return str(logged.model_id)

    def _log_in_run(self, folder: Path, run: TrackedRun, served: "ServingSpec", site: str) -> str:
        """Upload the model folder as artifacts of `run`, for a server older than MLflow 3; the address."""
        location = f"{run.artifact_uri}/{_FOLDER_IN_RUN}{f'-{site[:16]}' if site else ''}"
        _describe(folder, run.run_id, None, served)
        artifact_repository(location, self.uri).log_artifacts(str(folder))
        return location

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._ask(lambda: self._client.set_registered_model_alias(name, alias, version))

    # ---- asking

    def _wanted(self, question: Callable[[], T], what: str) -> T:
        found = self._maybe(question)
        if found is None:
            raise UserError(f"{what} is not in {redact(self.uri)}.")
        return found

    def _maybe(self, question: Callable[[], T]) -> T | None:
        from mlflow.exceptions import MlflowException

        try:
            return question()
        except MlflowException as error:
            if error_code(error) in _MISSING:
                return None
            return self._ask(question)  # it words the error


@dataclass(kw_only=True)
class ServingSpec:
    """How MLflow's scoring server is to use a model folder."""

    loader: str  # a module with _load_pyfunc
    inputs: Mapping[str, str]  # column -> MLflow's type, or "strings" for a list of them
    outputs: Mapping[str, str]
    example: Mapping[str, str]  # a row of `inputs`


@contextmanager
def _default_tracker(uri: str) -> Iterator[None]:
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def bad_request(message: str) -> Exception:
    """What the scoring server answers with status 400 and `message`."""
    from mlflow.exceptions import MlflowException

    return MlflowException.invalid_parameter_value(message)


def version_in(folder: Path) -> str | None:
    """The registered version that MLflow says a folder was downloaded as: "pneumo 3"."""
    file = folder / "registered_model_meta"
    try:
        if file.stat().st_size > 4096:
            return None
        found = yaml.safe_load(file.read_text())
        name, version = str(found["model_name"]), str(found["model_version"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    return f"{name} {version}" if len(name) < 100 and f"{name}{version}".isprintable() else None


def _describe(folder: Path, run_id: str, model_id: str | None, served: ServingSpec) -> None:
    """Add to a model folder what MLflow wants: MLmodel, an example, and the packages to install.

    mlflow.pyfunc.save_model is not used: it would copy the folder and list every package of the environment.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    def schema(columns: Mapping[str, str]) -> Schema:
        kinds = {"strings": Array(DataType.string)}
        return Schema([ColSpec(kinds.get(kind, kind), name) for name, kind in columns.items()])

    signature = ModelSignature(schema(served.inputs), schema(served.outputs))
    model = Model(run_id=run_id, model_id=model_id, signature=signature)
    pyfunc.add_to_model(
        model,
        loader_module=served.loader,
        python_env="python_env.yaml",
        conda_env="conda.yaml",
    )
    split = {"columns": list(served.example), "data": [list(served.example.values())]}
    (folder / "input_example.json").write_text(json.dumps(split))
    (folder / "serving_input_example.json").write_text(json.dumps({"dataframe_split": split}))
    model.saved_input_example_info = {
        "artifact_path": "input_example.json",
        "type": "dataframe",
        "pandas_orient": "split",
        "serving_input_path": "serving_input_example.json",
    }
    python = platform.python_version()
    # Not "pneumo==VERSION": the owner of that name on a public index could run code where it is served.
    wheels = sorted(file.name for file in (folder / WHEELS).glob("*.whl"))
    lines = [f"./{WHEELS}/{name}" for name in wheels] or [f"# {NO_WHEEL}"]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    (folder / "python_env.yaml").write_text(
        f"python: {python}\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n"
    )
    (folder / "conda.yaml").write_text(
        f"channels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n- pip:\n"
        "  - -r requirements.txt\nname: mlflow-env\n"
    )
    model.save(str(folder / "MLmodel"))


def _quoted(name: str) -> str:
    return name.replace("'", "")
