"""`${NAME}` in a configuration file stands for a variable of the environment; `$${` for a literal `${`.

Only texts are read in this way, after the YAML. So a variable's value never becomes a key, a list or a
comment.
"""

import re
from collections.abc import Mapping
from typing import Final

from gateway.settings.findings import Location

_REFERENCE: Final = re.compile(
    r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{(?:([A-Za-z_][A-Za-z0-9_]*):[-=?+])?"
)

Fault = tuple[Location, str, str]
"""Location, mistake, fix."""


def interpolated(
    value: object,
    env: Mapping[str, str],
    faults: list[Fault],
    where: Location = (),
    above: frozenset[int] = frozenset(),
) -> object:
    """Return a value of the file with the variables in its texts; add what cannot be read to `faults`."""
    if isinstance(value, str) and "${" in value:
        return _text(value, env, faults, where)
    if not isinstance(value, dict | list) or id(value) in above:
        return value  # an alias to itself is reported where the settings are checked
    above |= {id(value)}
    if isinstance(value, dict):
        return {key: interpolated(each, env, faults, (*where, key), above) for key, each in value.items()}
    return [interpolated(each, env, faults, (*where, index), above) for index, each in enumerate(value)]


def _text(text: str, env: Mapping[str, str], faults: list[Fault], where: Location) -> str:
    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        if match[0] == "$${":
            return "${"
        if match[2] is not None:
            # Without what follows, which may be a secret.
            told = f"has ${{{match[2]} with a default, as shells know it"
            faults.append((where, told, f"write ${{{match[2]}}}, and set {match[2]}"))
        elif name is None:
            faults.append(
                (where, "has ${ without the name of a variable", "write ${NAME}, or $${ for a literal ${")
            )
        elif name not in env:
            faults.append(
                (
                    where,
                    f"names ${{{name}}}, which the environment does not have",
                    f"set {name}, or write $${{{name}}}",
                )
            )
        else:
            return env[name]
        return match[0]

    return _REFERENCE.sub(replaced, text)
