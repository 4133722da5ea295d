"""The key of a trial: a hash of the fields that decide its result."""

import hashlib
import json
from typing import Any

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.fields import CHOOSERS
from fedray.section import Section

DEFAULTS_VERSION = 1
"""Raise it when a default changes: a key does not contain the fields that have their defaults."""

Tree = dict[str, Any]


def trial_key(experiment: Experiment) -> str:
    """Returns 8 hexadecimal digits, equal for experiments with equal results.

    A field that has its default does not go into the key, so that finished trials stay known when fedray gets a
    new field or section.
    """
    fields = {name: value for name, value in set_fields_of(experiment).items() if name not in EXECUTION_SECTIONS}
    document = json.dumps({"defaults": DEFAULTS_VERSION, "fields": fields}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:8]


def set_fields_of(section: Section) -> Tree:
    """Returns the fields of a section that differ from their defaults, as JSON, sections in it likewise.

    The fields that choose a section's class (`name`, `kind`) are always there.
    """
    document, fields = section.model_dump(mode="json"), type(section).model_fields
    return {
        name: _value(getattr(section, name), document[name])
        for name, field in fields.items()
        if name in CHOOSERS or getattr(section, name) != field.get_default(call_default_factory=True)
    }


def _value(value: object, document: Any) -> Any:
    if isinstance(value, Section):
        return set_fields_of(value)
    if isinstance(value, tuple):
        return [_value(item, part) for item, part in zip(value, document, strict=True)]
    return document
