"""`python -m fedray`."""

from fedray.import_path import move_working_folder_last

move_working_folder_last()

from fedray.cli.main import main  # noqa: E402  # its imports must not find files of the working folder

main()
