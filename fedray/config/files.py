"""The files that a spec names besides its data: weights and tables. They decide a result, too."""

from fedray.config.experiment import Experiment
from fedray.config.loader import flatten
from fedray.config.messages import FILES
from fedray.files import file_digest, strip_scheme


def named_files(experiment: Experiment) -> dict[str, str]:
    """Of each field that names a file or folder: the SHA-256 of what is in it now."""
    fields = flatten(experiment.model_dump(mode="json"))
    texts = {field: text for field, text in fields.items() if field.split(".")[-1] in FILES and isinstance(text, str)}
    digests = {field: file_digest(strip_scheme(text)) for field, text in texts.items()}
    return {field: digest for field, digest in digests.items() if digest is not None}
