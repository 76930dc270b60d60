"""Which column of a table is the path, the label, the patient, the split; by name, or by data.columns.*."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pneumo import UserError
from pneumo.data.settings import NO_COLUMN, DataSettings
from pneumo.names import PREDICTION_COLUMNS
from pneumo.names import SUBGROUP_COLUMNS as SUBGROUPS
from pneumo.names import plain_column as plain

# The names of public sets and of spreadsheets, best first. Compared without case, blanks and punctuation:
# `Patient ID`, `patient_id` and `PatientID` are one name.
PATH = (
    "path filepath img imagepath imgpath relativepath relpath imagefilepath imagefile imagefilename filename "
    "file fname imageindex imageid imgid imagename imgname xrayimagename image dicompath dicomfile"
).split()
LABEL = (
    "label labels class classname classlabel target findinglabels findinglabel findings finding diagnosis "
    "category disease pathology groundtruth imagelabel"
).split()
PATIENT = (
    "patient patientid patientids patientno patientnr patientnum patientnumber patientkey patientcode "
    "patientuid patientname patid ptid pid subject subjectid subjectno subjectnr subjectnumber subjectname "
    "person personid participant participantid mrn medicalrecordnumber"
).split()
SPLIT = "split splits datasplit subset partition set datasettype dataset phase traintest usage".split()
CLEARLY_SPLIT = ("split", "splits", "datasplit")  # the others count only if their values are names of splits
# Other names that may say who the patient is. They are not used by themselves, and not passed over either.
_PERSON = ("patient", "pacient", "pazient", "subject", "person", "participant")
_SUSPECTS = "pat patno patnr pt ptno case caseid caseno casenr casenumber hospitalid hospitalnumber".split()
_ABOUT = "age sex gender birth dob orientation position weight height size race ethnic death date".split()
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass
class Columns:
    """The columns of a table by role. `findings`: those of data.positive or data.classes, one a finding."""

    path: str
    label: str | None
    patient: str | None
    split: str | None
    findings: list[str] = field(default_factory=list)
    subgroups: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, str]:
        """Role to column, for a report."""
        roles = {"path": self.path, "label": self.label, "patient": self.patient, "split": self.split}
        shown = {role: column for role, column in roles.items() if column is not None}
        if self.findings:
            shown["label"] = ", ".join(self.findings)
        if self.subgroups:
            shown["subgroups"] = ", ".join(self.subgroups)
        return shown


def find(names: Sequence[str], settings: DataSettings, place: str) -> Columns:
    """The columns of a table whose header is `names`; `place` is the table, for messages.

    Raises UserError if path or label has no column, if data.columns.* names none, and for a column that looks
    like a patient and is not used.
    """
    asked = settings.columns
    path = _asked(names, "path", asked.path, place) or _first(names, PATH)
    if path is None:
        hint = _same_as_patient(names)
        raise UserError(
            f"{place} has no column path (or filepath, or img); its columns are {', '.join(names)}. Name the "
            f"column of the image files with data.columns.path=NAME.{hint}"
        )
    if settings.multilabel and (findings := _finding_columns(names, settings.class_names, place)):
        label = None
    else:
        label = _asked(names, "label", asked.label, place) or _first(names, LABEL, but=path)
        findings = _findings(names, settings) if label is None else []
    if label is None and not findings:
        raise UserError(
            f"{place} has no column label; its columns are {', '.join(names)}. Name it with "
            "data.columns.label=NAME. If each finding has its own column, name the positive ones with "
            "data.positive=[NAME,...]."
        )
    found = Columns(
        path=path,
        label=label,
        patient=_patient(names, settings, place),
        split=_split(names, settings, place, {path, label}),
        findings=findings,
    )
    found.subgroups = _subgroups(names, settings, place, found)
    return found


def _asked(names: Sequence[str], role: str, wanted: str | None, place: str) -> str | None:
    """The column that data.columns names for a role; None where it names none."""
    if wanted is None:
        return None
    if wanted in names:
        return wanted
    similar = [name for name in names if plain(name) == plain(wanted)]
    if len(similar) == 1:
        return similar[0]
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(
        f"data.columns.{role}={wanted} is not a column of {place}; its columns are {', '.join(names)}.{hint}"
    )


def _first(names: Sequence[str], known: Sequence[str], but: str | None = None) -> str | None:
    """The column with the best of the known names; one that is written exactly so comes first."""
    for name in known:
        if name in names and name != but:
            return name
    for name in known:
        for column in names:
            if column != but and plain(column) == name:
                return column
    return None


def _findings(names: Sequence[str], settings: DataSettings) -> list[str]:
    """The columns of data.positive, in a table with a column for each finding."""
    wanted = {plain(str(name)) for name in settings.positive or ()}
    found = [name for name in names if plain(name) in wanted]
    return found if len(found) == len(wanted) else []


def _finding_columns(names: Sequence[str], classes: Sequence[str], place: str) -> list[str]:
    """The column of each of `classes`; none where no finding, or only one, has a column."""
    by_name = {plain(name): name for name in names}
    missing = [name for name in classes if plain(name) not in by_name]
    if len(classes) - len(missing) < 2:
        return []
    if missing:
        raise UserError(
            f"{place} has no column {' and no column '.join(missing)}; its columns are {', '.join(names)}. "
            "data.classes=[A,B,...] names the findings to use."
        )
    return [by_name[plain(name)] for name in classes]


def _patient(names: Sequence[str], settings: DataSettings, place: str) -> str | None:
    asked = settings.columns.patient
    if asked == NO_COLUMN and NO_COLUMN not in names:
        return None
    if asked is not None:
        return _asked(names, "patient", asked, place)
    known = [name for name in names if plain(name) in PATIENT]
    identities = [name for name in known if "name" not in plain(name)]
    known = identities or known  # beside an id, a patient's name says nothing more
    suspects = known or [name for name in names if _looks_like_a_patient(name)]
    if len(known) > 1 or (suspects and not known):
        words = "which both look like the patient" if len(suspects) == 2 else "which look like the patient"
        if len(suspects) == 1:
            words = "which looks like the patient"
        raise UserError(
            f"{place} has the column{'s' if len(suspects) > 1 else ''} {', '.join(suspects)}, {words} and "
            "would not be used. Name the patient's column with data.columns.patient=NAME, or give "
            f"data.columns.patient={NO_COLUMN} if the table has no patients."
        )
    if known and settings.patient_pattern is not None:
        raise UserError(
            f"{place} has the column {known[0]}, and data.patient_pattern={settings.patient_pattern} takes "
            f"the patient from the path. Use one: leave out data.patient_pattern, or give "
            f"data.columns.patient={NO_COLUMN}."
        )
    return known[0] if known else None


def _looks_like_a_patient(name: str) -> bool:
    """True for names such as `ID of patient`; False for a patient's age, sex and the like."""
    folded = plain(name)
    if folded in _SUSPECTS:
        return True
    if not any(word in folded for word in _PERSON):
        return False
    for word in _PERSON:
        folded = folded.replace(word, "")
    words = {word.lower() for word in _WORDS.findall(name)}
    return words.isdisjoint(_ABOUT) and not folded.startswith(tuple(_ABOUT))


def _same_as_patient(names: Sequence[str]) -> str:
    both = [name for name in names if plain(name) in PATIENT]
    if not both:
        return ""
    return f" If the files are named after {both[0]}: data.columns.path={both[0]!r}."


def _split(names: Sequence[str], settings: DataSettings, place: str, taken: set[str | None]) -> str | None:
    asked = settings.columns.split
    if asked == NO_COLUMN and NO_COLUMN not in names:
        return None
    if asked is not None:
        return _asked(names, "split", asked, place)
    return _first([name for name in names if name not in taken], SPLIT)


def _subgroups(names: Sequence[str], settings: DataSettings, place: str, roles: Columns) -> list[str]:
    """The columns that predictions end with. Raises UserError for one that says who the patient is."""
    if settings.columns.subgroups is None:
        known = [_first(names, known) for known in SUBGROUPS.values()]
        return [name for name in known if name is not None]
    wanted = [_asked(names, "subgroups", name, place) for name in settings.columns.subgroups]
    found = list(dict.fromkeys(name for name in wanted if name is not None))
    for name in found:
        # Subgroups are written as they are, also with data.pseudonymise.
        if name in (roles.path, roles.patient, *PREDICTION_COLUMNS) or plain(name) in PATIENT:
            raise UserError(
                f"data.columns.subgroups={name} is not a subgroup: predictions have the columns "
                f"{', '.join(PREDICTION_COLUMNS)} themselves. Leave it out, or give the column another name."
            )
    return found
