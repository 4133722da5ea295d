"""pandas over result tables. Reads files only: no model, no Ray."""
