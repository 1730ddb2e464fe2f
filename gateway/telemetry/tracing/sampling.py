"""Which requests are traced: decided before anything is made for a trace.

The samplers are those of OTEL_TRACES_SAMPLER, and a ratio decides by the lower half of the trace id, as the
SDK's `TraceIdRatioBased` does. So all programs with the same ratio choose the same traces.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.requests.trace_context import TraceParent

RATIO_BITS: Final = (1 << 64) - 1
"""The part of a trace id that a ratio looks at."""
_ALL: Final = RATIO_BITS + 1
_NAMES: Final = ("always_on", "always_off", "traceidratio")
_PARENTBASED: Final = "parentbased_"


@dataclass(frozen=True, slots=True)
class Sampling:
    """A sampler."""

    bound: int
    """Trace ids whose lower half is below this are sampled."""
    by_parent: bool
    """Whether a parent's decision holds for its children."""

    def begin(self, parent: TraceParent | None) -> tuple[int, bool]:
        """Return the number of a request's trace, and whether it is sampled. Without a parent, it is new."""
        if parent is None:
            trace = random.getrandbits(128)
            return trace, self.chooses(trace)
        return int(parent.trace_id, 16), self.follows(parent)

    def chooses(self, trace_id: int) -> bool:
        """Decide on a trace that begins here."""
        return trace_id & RATIO_BITS < self.bound

    def follows(self, parent: TraceParent) -> bool:
        """Decide on a trace that began elsewhere."""
        return parent.sampled if self.by_parent else self.chooses(int(parent.trace_id, 16))


def read(environ: Mapping[str, str]) -> tuple[Sampling, str | None]:
    """Return the sampler, and what is wrong with the variables, if anything is.

    As in the SDK, an unknown name means `parentbased_always_on`, and a ratio that is none means 1, without
    complaint if it is not set.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind, problem = name.removeprefix(_PARENTBASED), None
    by_parent = name.startswith(_PARENTBASED)
    if kind not in _NAMES:
        known = ", ".join([*_NAMES, *(_PARENTBASED + each for each in _NAMES)])
        return Sampling(_ALL, by_parent=True), f"OTEL_TRACES_SAMPLER={name} is none of {known}"
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
    if ratio is None:
        given = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
        try:
            ratio = float(given or 1.0)
        except ValueError:
            ratio = -1.0
        if not 0.0 <= ratio <= 1.0:
            ratio, problem = 1.0, f"OTEL_TRACES_SAMPLER_ARG={given} is no number from 0 to 1: all are sampled"
    return Sampling(round(ratio * _ALL), by_parent), problem
