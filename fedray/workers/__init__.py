"""The process that trains clients, evaluates and runs teachers."""
