"""The bill of materials of this environment: every installed distribution with its version and licence.

A CycloneDX document, written by cyclonedx-python-lib: pip install 'pneumo[dossier]'. It names no path.
"""

import importlib.util
from importlib.metadata import Distribution, distributions
from typing import TYPE_CHECKING

import pneumo
from pneumo import UserError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

LONGEST_LICENCE = 100  # characters; some packages have the whole text where its name belongs


def check() -> None:
    """UserError if the library that writes it is not installed."""
    if importlib.util.find_spec("cyclonedx") is None:
        raise UserError("dossier=true needs cyclonedx-python-lib: pip install 'pneumo[dossier]'")


def text() -> str:
    """The document as JSON, CycloneDX 1.6."""
    check()
    from cyclonedx.contrib.this.builders import this_component
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom = Bom()
    own = _component("pneumo", pneumo.__version__, [], ComponentType.APPLICATION)
    bom.metadata.component = own
    bom.metadata.tools.components.add(this_component())
    for distribution in _installed():
        name = _declared(distribution, "Name")[0]
        bom.components.add(_component(name, distribution.version, licences(distribution)))
    bom.register_dependency(own, bom.components)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2) + "\n"


def _installed() -> list[Distribution]:
    """The distributions that an import finds, each once; this package is the document's subject."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        for declared in _declared(distribution, "Name")[:1]:
            name = declared.lower().replace("_", "-")
            if name != "pneumo":
                found.setdefault(name, distribution)
    return [found[name] for name in sorted(found)]


def _component(name: str, version: str, of: "list[License]", kind: "object | None" = None) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    address = PackageURL(type="pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=kind or ComponentType.LIBRARY,  # type: ignore[arg-type]
        purl=address,
        bom_ref=str(address),
        licenses=of,
    )


def licences(distribution: Distribution) -> "list[License]":
    """What a distribution declares: its expression, else its short licence field, else its classifiers."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    factory = LicenseFactory()
    for field in ("License-Expression", "License"):
        for value in _declared(distribution, field):
            if value != "UNKNOWN" and len(value) <= LONGEST_LICENCE:
                return [factory.make_from_string(value)]
    listed = [row for row in _declared(distribution, "Classifier") if row.startswith("License :: ")]
    names = sorted({row.rpartition(" :: ")[2] for row in listed})
    return [factory.make_with_name(name) for name in names]


def _declared(distribution: Distribution, field: str) -> list[str]:
    """What the metadata have in a field. Some finders raise KeyError for `metadata[field]`, others do not."""
    values = distribution.metadata.get_all(field) or []
    return [text for text in (" ".join(str(value).split()) for value in values) if text]
