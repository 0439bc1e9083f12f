"""Results that joblib has left in a folder, taken over: those of the function's source as it is now."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ._hashing import hash as joblib_hash
from ._memory_base import MISSING
from ._memory_calls import identifier, source_code
from ._memory_layout import FIRST_LINE
from ._stores import joblib_pickle


def is_ours(path: str) -> bool:
    """Can nobody but this user write there?"""
    found = os.stat(path)
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


class Leavings:
    """The results of a function in a folder of joblib's layout."""

    def __init__(self, folder: str, function: Any, trusted: bool) -> None:
        self.folder = os.path.join(folder, identifier(function))
        self.usable = False
        self.refused = ""
        try:
            with open(os.path.join(self.folder, "func_code.py"), encoding="utf-8") as file:
                before = file.read()
        except OSError:
            return
        foreign = [place for place in (folder, self.folder) if not is_ours(place)]
        if foreign and not trusted:
            self.refused = f"results of joblib are not taken over: other users can write to {foreign[0]}"
            return
        if before.startswith(FIRST_LINE):
            before = before.partition("\n")[2]
        self.usable = before == source_code(function)[0]

    def find(self, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A result, MISSING where there is none, and what joblib knew about the call.

        Raises:
            Exception: what reading it raises.
        """
        if not self.usable:
            return MISSING, {}
        for coerce_mmap in (False, True):
            place = os.path.join(self.folder, joblib_hash(arguments, coerce_mmap=coerce_mmap))
            file = os.path.join(place, "output.pkl")
            if os.path.exists(file):
                return joblib_pickle("import_joblib").load(file), metadata_in(place)
        return MISSING, {}


def metadata_in(place: str) -> dict[str, Any]:
    try:
        with open(os.path.join(place, "metadata.json"), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except (OSError, ValueError):
        return {}
