"""Keyed pseudonyms of patients and files: what reaches the tracker then names nobody.

A pseudonym is an HMAC-SHA256 (RFC 2104) of the name, cut to 64 bits, with a key that stays on this machine.
One key gives a name the same pseudonym in every run, so runs stay comparable. Without the key nobody can
test whether a patient is in the data.
"""

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pneumo import UserError

KEY_BYTES = 32
KEY_VARIABLE = "PNEUMO_PSEUDONYM_KEY"
_PSEUDONYM = re.compile(r"(?:patient|image)-[0-9a-f]{16}(?:\.\w+)?")


def key_file() -> Path:
    """The file of the key: PNEUMO_PSEUDONYM_KEY, else pneumo/pseudonym.key in the user's configuration."""
    if named := os.environ.get(KEY_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "pneumo" / "pseudonym.key"


def _key() -> bytes:
    """The key of this machine, made at its first use. Only its owner can read it."""
    file = key_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "w") as stream:
                stream.write(secrets.token_hex(KEY_BYTES) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        key = bytes.fromhex(file.read_text())
    except ValueError:
        key = b""
    except OSError as error:
        raise UserError(
            f"data.pseudonymise=true needs the key file {file}: {error.strerror}. Name another file with "
            f"{KEY_VARIABLE}=FILE."
        ) from None
    if len(key) != KEY_BYTES:
        raise UserError(
            f"{file} is not a key of data.pseudonymise: it should hold {2 * KEY_BYTES} hexadecimal digits. "
            "Restore it from a copy: with another key the pseudonyms of older runs do not fit those of new "
            "runs. Or delete it, and a new key is made."
        )
    return key


def is_pseudonym(name: str) -> bool:
    """True for the pseudonym of a patient or of a path."""
    return _PSEUDONYM.fullmatch(name) is not None


class Pseudonyms:
    """The pseudonyms of names. UserError if the key can be neither read nor made.

    Patients of two namespaces have different pseudonyms, also where their ids are equal.
    """

    def __init__(self, namespace: str | None = None) -> None:
        self._secret = _key()
        self._prefix = "" if namespace is None else f"{namespace}\0"

    def patient(self, name: str | None) -> str | None:
        """The pseudonym of a patient; None, for an unknown one, stays, as a pseudonym does."""
        if name is None or is_pseudonym(name):
            return name
        return f"patient-{self._digits('patient', self._prefix + name)}"

    def path(self, name: str) -> str:
        """The pseudonym of an image's path, with its suffix; a pseudonym stays."""
        if is_pseudonym(name):
            return name
        return f"image-{self._digits('path', name)}{PurePosixPath(name).suffix.lower()}"

    def _digits(self, kind: str, name: str) -> str:
        text = f"{kind}:{name}".encode(errors="surrogateescape")
        return hmac.digest(self._secret, text, hashlib.sha256).hex()[:16]
