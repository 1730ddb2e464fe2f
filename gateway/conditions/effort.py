"""How long an evaluation may take, as its expression tells: the bounds of what it reads keep it short.

The library copies lists within loops, and for each item that `map` and `filter` make, all those before it.
"""

from dataclasses import dataclass
from typing import Final

MOST_ITEMS: Final = 2000
"""The most items of lists and mappings that one evaluation reads: each takes time."""
MOST_SQUARED: Final = 500
"""The same for an expression whose time grows with their square."""
MOST_CUBED: Final = 50
"""The same for one whose time grows with their cube."""
_MOST: Final = {1: MOST_ITEMS, 2: MOST_SQUARED, 3: MOST_CUBED}
_FEW_LOOPS: Final = 4
"""With more loops, they share the items that so many may read."""


@dataclass(slots=True)
class Effort:
    """What the time of an evaluation grows with."""

    power: int = 1
    """It grows with this power of the number of items: 1, 2 or 3."""
    loops: int = 0
    """Loops over what is not written in the expression."""
    joined: int = 1
    """The most lists that are joined to loop over them: each may be the same one."""

    def grows(self, power: int) -> None:
        """Take note that the time grows at least with this power."""
        self.power = max(self.power, power)

    @property
    def most_items(self) -> int:
        """The most items that an evaluation may read."""
        return _MOST[self.power] * _FEW_LOOPS // max(_FEW_LOOPS, self.loops) // self.joined
