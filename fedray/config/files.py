"""Files that a spec names besides its data, such as weights and tables; their contents decide a result."""

from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.config.fields import FILE_FIELDS
from fedray.config.yaml_files import flatten
from fedray.files import strip_scheme


def named_paths(experiment: Experiment) -> dict[str, Path]:
    """Return the path of each named file or folder that exists, by dotted field (`teacher.teachers.0.file`)."""
    fields = flatten(experiment.model_dump(mode="json"))
    texts = {f: text for f, text in fields.items() if f.split(".")[-1] in FILE_FIELDS and isinstance(text, str)}
    paths = {field: strip_scheme(text) for field, text in texts.items()}
    return {field: path for field, path in paths.items() if path.is_file() or path.is_dir()}
