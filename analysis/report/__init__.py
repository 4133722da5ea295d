"""One self-contained page over studies, with its figures and tables as files beside it."""
