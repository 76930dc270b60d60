"""The bill of materials against the environment and the standard's own schema."""

import importlib.util
import json
import sys
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest

from pneumo import UserError, sbom

NEEDS = "cyclonedx-python-lib is not installed: pip install 'pneumo[dossier]'"


def test_it_lists_the_installed_distributions_once_with_version_and_licence() -> None:
    pytest.importorskip("cyclonedx", reason=NEEDS)
    text = sbom.text()
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["name"] == "pneumo"
    names = [part["name"].lower() for part in found["components"]]
    assert len(names) == len(set(names)) and "pneumo" not in names
    parts = {part["name"].lower(): part for part in found["components"]}
    for name in ("numpy", "torch", "mlflow"):
        assert parts[name]["version"] == version(name)
        assert parts[name]["purl"].startswith(f"pkg:pypi/{name}@")
        assert parts[name]["licenses"], name
    for path in {sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "file://", "site-packages"}:
        assert path not in text, path


def test_it_is_valid_by_the_schema_of_the_standard() -> None:
    pytest.importorskip("cyclonedx", reason=NEEDS)
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    import cyclonedx.schema
    from referencing import Registry, Resource

    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    files = ("bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    schemas = {name: json.loads((folder / name).read_text()) for name in files}
    base = schemas[files[0]]["$id"].rpartition("/")[0]
    named = [(f"{base}/{name}", Resource.from_contents(one)) for name, one in schemas.items()]
    validator = jsonschema.Draft7Validator(schemas[files[0]], registry=Registry().with_resources(named))
    assert [error.message for error in validator.iter_errors(json.loads(sbom.text()))] == []
    assert list(validator.iter_errors({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 0}))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: Apache-2.0 OR MIT"], ["Apache-2.0 OR MIT"]),
        (["License: MIT"], ["MIT"]),
        (["License: House rules"], ["House rules"]),
        (["License: " + "The whole text. " * 20, "Classifier: License :: OSI Approved :: BSD"], ["BSD"]),
        (["License: UNKNOWN"], []),
    ],
)  # fmt: skip
def test_a_licence_is_what_the_distribution_declares(
    tmp_path: Path, lines: list[str], expected: list[str]
) -> None:
    pytest.importorskip("cyclonedx", reason=NEEDS)
    text = "\n".join(["Metadata-Version: 2.4", "Name: x", "Version: 1", *lines])
    (tmp_path / "METADATA").write_text(text + "\n")
    found = sbom.licences(PathDistribution(tmp_path))
    assert [getattr(one, "value", None) or one.id or one.name for one in found] == expected


def test_without_the_library_one_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "cyclonedx" else find(name, *rest)
    )
    with pytest.raises(UserError, match=r"dossier=true needs cyclonedx-python-lib: pip install 'pneumo"):
        sbom.check()
