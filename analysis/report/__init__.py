"""One self-contained HTML page about studies, with its figures and tables as files."""
