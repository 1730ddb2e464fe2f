"""What is told of the mistakes in a configuration."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.settings import ConfigurationError, Problem, load


def problems(file: Path, env: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """Load a configuration, which must fail."""
    with pytest.raises(ConfigurationError) as caught:
        load(file, env or {})
    return caught.value.problems


def told(file: Path, env: Mapping[str, str] | None = None) -> list[str]:
    """Load a configuration, which must fail; return each message without the name of the file."""
    return [str(problem).removeprefix(str(file)) for problem in problems(file, env)]
