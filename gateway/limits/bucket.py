"""What one worker holds of one subject's budget: a lease of tokens, and a share for when Redis is away.

A worker has at most one lease of a budget. Each `ask` settles it and takes the next one: what was spent, what
is kept, what is given back. Tokens that are held in advance are on record in Redis (`registered`), for at
least `LEASE_SECONDS` and at most twice that; the worker spends none after `until`, which is sooner.

While Redis does not answer, the worker goes on with its *share*: tokens come at the limit's rate divided by
the number of workers, and it begins with its part of the limit's `extra`. What it spends so is its debt.

Times are seconds of the worker's own clock, which only measures how long something takes.
"""

import math
from dataclasses import dataclass
from typing import Final

from gateway.limits.ledger import LEASE_SECONDS, Ask, Grant
from gateway.limits.rules import SPARE, Limit

SHORTEST_REFUSAL: Final = 0.002
LONGEST_REFUSAL: Final = 1.0
"""Seconds for which a worker refuses without asking again, after Redis has said that nothing is left."""
STREAK: Final = 5.0
"""Seconds after a refusal, or after the time that it told, in which another one continues it."""
_MARGIN: Final = 1.0
"""Seconds before its end in which a lease is not renewed, as the answer may come too late."""
_REFILL: Final = 4
"""A lease is renewed when no more than one token of so many is left."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of each limit that one worker has while Redis does not answer."""

    workers: int
    """How many share, as far as is known."""
    rank: int
    """The place of this one among them, from 0."""
    outage: int
    """The number of this outage."""
    since: float
    """When this worker noticed it."""

    def of(self, total: int) -> int:
        """Return this worker's part of a number. The parts of all workers make up the number."""
        return total // self.workers + (self.rank < total % self.workers)


class Bucket:
    """The tokens of one subject. `Limit` is given to each method, so that a bucket stays small."""

    __slots__ = (
        "_asked_at", "_debt", "_epoch", "_era", "_held", "_kept", "_local", "_local_at", "_outage", "_own",
        "_own_at", "_registered", "_told", "ends", "flight", "left", "low", "period", "refused_since",
        "refused_until", "retry_at", "running", "subject", "tokens", "until", "waiting",
    )  # fmt: skip

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.tokens = 0
        """What may be spent without asking."""
        self.until = -math.inf
        """When that ends."""
        self.low = -1
        """The number of tokens at which more are asked for, while the others are spent."""
        self.refused_since = self.refused_until = -math.inf
        """When the refusals began that go on, and until when it is refused without asking."""
        self.retry_at = 0.0
        """When there may be a token again."""
        self.running = 0
        """Of a concurrency: the requests that run."""
        self.left = 0
        """What was left in Redis at its last answer."""
        self.waiting = 0
        """The requests that wait for tokens."""
        self.flight: object | None = None
        """The task that asks, if one does."""
        self.period = ""
        self.ends = math.inf
        """Of a quota: its day or month, and when that ends."""
        self._registered = 0
        self._epoch = -1
        self._era = ""
        self._held = 0
        """The tokens after the last answer, from which the spent ones are told."""
        self._kept = 0
        self._asked_at = -math.inf
        self._own = 0.0
        self._own_at = 0.0
        """Of a rate: what this worker has spent, less what has come back since at the rate of its share."""
        self._debt = 0
        self._told = 0
        """What of the debt is on its way to Redis."""
        self._local = 0.0
        self._local_at = -math.inf
        self._outage = 0

    # Spend -------------------------------------------------------------------------------------------

    def take(self, limit: Limit, now: float) -> bool:
        """Spend a token of the lease."""
        if self.tokens > 0 and now < self.until:
            self.tokens -= 1
            if limit.kind == "concurrency":
                self.running += 1
            return True
        return False

    def put_back(self, limit: Limit) -> None:
        """Undo what was spent last; or end a request, of a concurrency."""
        if limit.kind == "concurrency":
            self.tokens += 1
            self.running -= 1
        elif self._debt > self._told:
            # Of the share: a token of the lease would be of no use while Redis does not answer.
            self._debt -= 1
            self._local += 1
            self._own = max(0.0, self._own - 1)
        else:
            self.tokens += 1

    def take_local(self, limit: Limit, now: float, share: Share) -> bool:
        """Spend a token of the worker's share."""
        if limit.kind == "concurrency":
            if self.running >= share.of(limit.capacity):
                return False
            self.running += 1
            return True
        self._enter(limit, now, share)
        if self._local < 1:
            self._continue_refusals(now)
            self.retry_at = now + self._until_next(limit, share, now)
            return False
        self._local -= 1
        self._debt += 1
        self._spent(limit, now, 1, share.workers)
        return True

    def _until_next(self, limit: Limit, share: Share, now: float) -> float:
        if limit.kind == "rate":
            return (1 - self._local) * limit.interval * share.workers
        return max(0.0, self.ends - now)

    def _enter(self, limit: Limit, now: float, share: Share) -> None:
        """Bring the share up to date."""
        if self._outage != share.outage:
            # An outage soon after another one gives no second beginning.
            window = limit.burst * limit.interval if limit.kind == "rate" else math.inf
            if now - self._local_at >= window:
                self._local = float(share.of(limit.extra))
            self._outage, self._local_at = share.outage, share.since
        if limit.kind == "rate":
            came = (now - self._local_at) / (limit.interval * share.workers)
            self._local = min(max(1.0, limit.burst / share.workers), self._local + max(0.0, came))
        self._local_at = now

    def _spent(self, limit: Limit, now: float, tokens: int, workers: int) -> None:
        if limit.kind == "rate":
            came = (now - self._own_at) / (limit.interval * workers)
            self._own, self._own_at = max(0.0, self._own - came) + tokens, now

    # Ask ---------------------------------------------------------------------------------------------

    def begin(self, period: str, ends: float) -> None:
        """Begin another day or month. What is left of the last one is void."""
        self.period, self.ends = period, ends
        self.tokens = self._held = self._registered = self._debt = self._told = 0
        self._epoch, self.until, self.refused_until = -1, -math.inf, -math.inf
        self._local_at, self._outage, self.left = -math.inf, 0, -1

    def is_due(self, limit: Limit) -> bool:
        """Tell whether a lease has something to settle, once it has stood for a while."""
        return self.tokens > 0 or (limit.kind == "concurrency" and self._registered > 0)

    def is_void(self) -> bool:
        """Tell whether all of a lease was spent at once, so that Redis has nothing of it on record."""
        return self.tokens == self._registered == 0

    def is_idle(self) -> bool:
        """Tell whether nothing was spent since the last answer."""
        return self.tokens >= self._held

    def spare(self, limit: Limit, workers: int) -> int:
        """Return how many requests of a concurrency a worker may have in advance, or has waiting."""
        return int(SPARE * limit.amount / workers) + self.waiting

    def owes(self, limit: Limit, now: float, era: str) -> bool:
        """Tell whether Redis must be told what was spent. `era` is that of Redis now."""
        forgotten = self._forgotten(era)
        if limit.kind == "concurrency":
            outdated = self._epoch < 0 or now - self._asked_at > LEASE_SECONDS / 2
            return self.running > 0 and (forgotten or outdated or self._registered < self.running)
        spent = self._own > 0 or self._held > self.tokens
        return self._debt > 0 or (forgotten and (spent or limit.kind == "quota"))

    def _forgotten(self, era: str) -> bool:
        """Tell whether Redis has lost what it knew since it last answered."""
        return self._era not in ("", era)

    def ask(
        self, limit: Limit, now: float, workers: int, era: str, *, keep: bool, more: bool, ends: float
    ) -> Ask:
        """Return the account of the lease, and the wish for the next one.

        `keep`: the tokens go on to be spent meanwhile; else they are given back. `more`: tokens for requests
        to come are wished for. `ends` is the Unix time at which the period of a quota ends.
        """
        if limit.kind == "concurrency":
            spare = self.spare(limit, workers) if keep else self.waiting
            # What is not on record is not the worker's to spend.
            self.tokens = min(self.tokens, spare) if self._epoch >= 0 else 0
            self._kept, back, debt = self.running + self.tokens, 0, 0
            ahead = max(0, spare - self.tokens - self.waiting)
        else:
            spent = max(0, self._held - self.tokens)
            self._spent(limit, now, spent, workers)
            elapsed = max(now - self._asked_at, 0.001)
            demand = int((spent + self.waiting) / elapsed * LEASE_SECONDS)
            if self._forgotten(era):
                # What is not on record any more is not the worker's to spend, nor to give back.
                self.tokens, debt = 0, self._owed(limit, forgotten=True)
            else:
                debt = self._owed(limit, forgotten=False)
            self._kept = self.tokens if keep and now + _MARGIN < self.until else 0
            back, ahead = self.tokens - self._kept, max(0, demand - self._kept)
            self.tokens = self._kept
        self._held, self._asked_at, self._told = self.tokens, now, self._debt
        want = max(0, self.waiting - self.tokens)
        return Ask(
            limit.name, self.subject, self.period, limit.kind, limit.capacity,
            limit.interval if limit.kind == "rate" else 0.0, ends, want,
            ahead if more else 0, self._registered, self._epoch, self._kept, back, debt,
            self._seed(limit, era), era,
        )  # fmt: skip

    def _seed(self, limit: Limit, era: str) -> int:
        """Return what Redis must be told to be spent of a quota; -1: it knows, or this worker does not."""
        known = limit.kind == "quota" and self.left >= 0 and self._forgotten(era)
        return limit.amount - self.left if known else -1

    def _owed(self, limit: Limit, *, forgotten: bool) -> int:
        if limit.kind == "quota":
            return self._debt
        # What has come back at the rate of the share since it was spent is no debt any more.
        missing = math.ceil(self._own - 1e-6)
        return missing if forgotten else min(self._debt, missing)

    def answered(self, limit: Limit, ask: Ask, grant: Grant, sent: float, now: float) -> None:
        """Take what Redis has granted. `sent` is when it was asked."""
        if ask.period != self.period:
            # Another day or month has begun meanwhile. What was granted is of the last one.
            return
        tokens = grant.granted + grant.ahead
        self.tokens += tokens
        self._held += tokens
        self._registered, self._epoch, self._era = ask.keep + grant.ahead, grant.epoch, ask.era
        if limit.kind == "concurrency":
            self._registered += grant.granted
        self.until = min(sent + LEASE_SECONDS, self.ends)
        self.low = self.tokens // _REFILL if grant.ahead >= _REFILL else -1
        self.left = grant.left
        self._debt, self._told = self._debt - self._told, 0
        if limit.kind == "rate":
            # More than what Redis lacks cannot be owed.
            self._own = min(self._own, max(0.0, limit.burst - grant.left))
        if grant.granted < ask.want:
            self.refuse(now, min(max(grant.wait, SHORTEST_REFUSAL), LONGEST_REFUSAL))
            self.retry_at = now + grant.wait

    def refuse(self, now: float, seconds: float) -> None:
        """Refuse for a while without asking."""
        self._continue_refusals(now)
        self.retry_at = self.refused_until = now + seconds

    def _continue_refusals(self, now: float) -> None:
        if not self.is_throttled(now):
            self.refused_since = now

    def pardon(self) -> None:
        """Forget that nothing was left: the budget was given anew."""
        self.refused_since = self.refused_until = -math.inf
        self.retry_at = 0.0

    def unanswered(self) -> None:
        """Take note that an answer is missing: what is on record is not known. The tokens stay until then."""
        self._registered, self._epoch, self._told = 0, -1, 0

    # Tell --------------------------------------------------------------------------------------------

    def is_throttled(self, now: float) -> bool:
        """Tell whether requests are refused, or were a moment ago."""
        return now < max(self.refused_until, self.retry_at) + STREAK and self.refused_since > -math.inf

    def known(self, limit: Limit, now: float) -> tuple[int, float] | None:
        """Return what is left in Redis as far as this worker knows, and for how many seconds it has known.

        None: it does not know. What workers hold in advance is not in it.
        """
        if not self._era or self.left < 0:
            return None
        age = max(0.0, now - self._asked_at)
        if limit.kind == "rate":
            return min(limit.burst - self.tokens, self.left + int(age / limit.interval)), age
        return (limit.amount, 0.0) if now >= self.ends else (self.left, age)

    def remaining(self, limit: Limit) -> int:
        """Return how many requests are left, as far as this worker knows."""
        left = self.tokens + (self.left if self.left > 0 else 0)
        return left if left < limit.capacity else limit.capacity
