"""Every setting: a YAML file, overridable from the environment, checked as a whole.

`load` reads a configuration or raises `ConfigurationError` with every mistake in it, each with its
line. The sections and their defaults are in `gateway.settings.model`.
"""

from gateway.settings.loading import ConfigurationError, Problem, load
from gateway.settings.model import Settings

__all__ = ["ConfigurationError", "Problem", "Settings", "load"]
