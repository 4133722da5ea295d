"""The order of Python's import path: the user's working folder comes last, so that installed packages win.

`python -m fedray` and Ray put the folder first. A file `analysis.py` or `yaml.py` in it would then be imported in place
of the package. A class of the user's, `mypackage.module:Object`, is found at the end of the path all the same.
"""

import sys
from contextlib import suppress
from pathlib import Path


def move_working_folder_last() -> None:
    """Undo what `python -m` does: it makes the working folder the first entry of the path."""
    with suppress(FileNotFoundError):  # the folder was deleted
        if not sys.flags.safe_path and sys.path[:1] in ([""], [str(Path.cwd())]):
            del sys.path[0]
    add_working_folder()


def add_working_folder() -> None:
    """Append the working folder to the path unless it is there."""
    with suppress(FileNotFoundError):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))


def move_job_folders_last() -> None:
    """In a worker process of Ray, move the folders that the job has put first to the end. Elsewhere do nothing."""
    script = Path(sys.argv[0]) if sys.argv else Path()
    own = str(script.parent)
    if script.name == "default_worker.py" and own in sys.path:
        start = sys.path.index(own)
        sys.path[:] = [*sys.path[start:], *sys.path[:start]]
