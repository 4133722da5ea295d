"""`python -m fedray`."""

from fedray.cli.main import main

main()
