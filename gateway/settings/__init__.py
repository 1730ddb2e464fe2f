"""The settings: a YAML file, with overrides from the environment, validated as a whole.

`load` returns the settings, or raises `ConfigurationError` with every mistake and its line. The sections and
their defaults are in `gateway.settings.sections.model`.
"""

from gateway.settings.reading.loading import ConfigurationError, Problem, load
from gateway.settings.reading.pasted import load_pasted
from gateway.settings.sections.model import Settings

__all__ = ["ConfigurationError", "Problem", "Settings", "load", "load_pasted"]
