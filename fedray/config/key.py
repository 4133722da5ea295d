"""The key of a trial: a hash of the fields that decide its result."""

import hashlib
import json

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.values import canonical
from fedray.config.yaml_files import Tree
from fedray.section import CHOOSERS, Section

DEFAULTS_VERSION = 1
"""Raise it when a default changes, because a key omits fields with their default values."""


def trial_key(experiment: Experiment) -> str:
    """Return 8 hexadecimal digits, equal for experiments with equal results.

    The key omits fields with their default values, so that a new field or section leaves the keys of finished
    trials unchanged.
    """
    fields = {name: value for name, value in set_fields_of(experiment).items() if name not in EXECUTION_SECTIONS}
    document = json.dumps({"defaults": DEFAULTS_VERSION, "fields": fields}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:8]


def setting(experiment: Experiment) -> str:
    """Return a text that is equal for experiments with equal results, floats compared by 15 significant digits.

    Unlike the key, it is not stored: rounding in the key would rename finished trials.
    """
    fields = {name: value for name, value in set_fields_of(experiment).items() if name not in EXECUTION_SECTIONS}
    return json.dumps(canonical(fields), sort_keys=True)


def set_fields_of(section: Section) -> Tree:
    """Return the fields of a section, and of its inner sections, that differ from their defaults, as JSON values.

    Fields that choose a section's class (`name`, `kind`) are always included.
    """
    document, values = section.model_dump(mode="json"), dict(section)
    return {
        name: _value(values[name], document[name])
        for name, field in type(section).model_fields.items()
        if name in CHOOSERS or values[name] != field.get_default(call_default_factory=True)
    }


def _value(value: object, document: object) -> object:
    """Return the JSON value of a field, sections reduced to their set fields; `document` is the whole JSON value."""
    if isinstance(value, Section):
        return set_fields_of(value)
    if isinstance(value, tuple) and isinstance(document, list):
        return [_value(item, part) for item, part in zip(value, document, strict=True)]
    return document
