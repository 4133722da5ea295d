"""Files that a spec names besides its data, such as weights and tables; their contents decide a result."""

from fedray.config.experiment import Experiment
from fedray.config.fields import FILE_FIELDS
from fedray.config.yaml_files import flatten
from fedray.files import file_digest, strip_scheme


def named_files(experiment: Experiment) -> dict[str, str]:
    """Returns the SHA-256 of the present contents of each named file or folder, by dotted field."""
    fields = flatten(experiment.model_dump(mode="json"))
    texts = {f: text for f, text in fields.items() if f.split(".")[-1] in FILE_FIELDS and isinstance(text, str)}
    digests = {field: file_digest(strip_scheme(text)) for field, text in texts.items()}
    return {field: digest for field, digest in digests.items() if digest is not None}
