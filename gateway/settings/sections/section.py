"""The base of each section of the configuration."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the file, with known keys and immutable values."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )
