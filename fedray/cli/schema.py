"""`fedray schema`."""

import json


def schema() -> None:
    """Print the JSON schema of a spec. Editors check and complete YAML with it."""
    from fedray.config.schema import schema as spec_schema

    print(json.dumps(spec_schema(), indent=2))
