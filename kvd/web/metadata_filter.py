"""Lists filtered by metadata on the server, an extension: ``metadata.<path>=<JSON value or text>``.

    GET …/keys?metadata.kind=article&metadata.author.id=7&metadata.tags=news

A parameter names a member of the metadata, through objects by dots. It fits if the member equals the value, or
is an array that holds it; the value is read as JSON if it is JSON, and as a text as well. Several
parameters have to fit all. A page may then be empty and have a cursor all the same: see `listing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kvd import json_text
from kvd.web.errors import Refused
from kvd.web.listing import Filter
from storage.record import METADATA, Record

_PREFIX: Final = "metadata."
_CONDITIONS_MAX: Final = 10


def filter_of(parameters: Mapping[str, str]) -> Filter | None:
    """Return the filter that the parameters of a list ask for, None if they ask for none."""
    conditions = [
        (name[len(_PREFIX) :].split("."), _values(text))
        for name, text in parameters.items()
        if name.startswith(_PREFIX)
    ]
    if not conditions:
        return None
    if len(conditions) > _CONDITIONS_MAX:
        raise Refused(400, f"more than {_CONDITIONS_MAX} conditions on metadata")

    def fits(key: bytes, record: Record) -> bool:
        if record[METADATA] is None:
            return False
        try:
            metadata = json_text.load(record[METADATA])
        except ValueError:
            return False
        return all(_fits(metadata, path, values) for path, values in conditions)

    return fits


def _values(text: str) -> list[Any]:
    try:
        return [text, json_text.load(text)]
    except ValueError:
        return [text]


def _fits(metadata: Any, path: list[str], values: list[Any]) -> bool:
    for name in path:
        if not isinstance(metadata, dict) or name not in metadata:
            return False
        metadata = metadata[name]
    candidates = [metadata, *metadata] if isinstance(metadata, list) else [metadata]
    return any(type(one) is type(value) and one == value for one in candidates for value in values)
