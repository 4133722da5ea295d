"""Compares the trials of a study on disk with the present data, code and threads, before a sweep starts."""

from fedray.results.contents import PresentContents
from fedray.study.study import Study


def check_identities(study: Study, *, verify_data: bool = False) -> list[str]:
    """Return a message for each difference that is reported but not refused.

    `verify_data`: compare contents even if sizes and times of files are unchanged. Raises SpecError for a finished
    trial on other data, and for an unfinished one with another identity. A trial whose environment.json is damaged is
    left to its process, or reported if it is finished.
    """
    if study.is_population:  # its members change their specs; the driver compares the rest
        return []
    contents, notes = PresentContents(verify=verify_data), list[str]()
    for trial in (trial for trial in study.trials() or study.existing_trials() if trial.round):
        if trial.folder.identity is not None:
            allowed = study.allow_code_change
            notes += trial.folder.check_identity(trial.experiment, allow_code_change=allowed, contents=contents)
        elif trial.folder.finished:
            notes.append(f"the finished run in '{trial.folder.path}' records no identity, so it was not compared.")
    return [*notes[:1], *([f"The same holds for {len(notes) - 1} other trials."] if notes[1:] else [])]
