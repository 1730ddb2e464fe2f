"""The local tier: answers from the memory of this process, at the price of three look-ups.

Entries are answered only while the tier is open: while its owner receives every change. Each received
change drops the entries that it concerns, and voids the tickets of reads that began before it, so that a
slow reader cannot put back an entry that has just been dropped. The stores decide on every token that the
tier does not answer for, and on every token that a revocation hits. So memory grows with the tokens in use;
revoked tokens take none.

Users stay here after their time, as the last known answer. It is served, marked as stale, when no store can
be asked. A received change drops it, too.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, TypeAlias

from gateway.core.caches import FIFO, LRU
from gateway.core.model import Claims, Resolution, Tier, User, Validity
from gateway.core.revocations import Revocations, hits

PROOF_LIFETIME: Final = 2.0
"""Seconds for which a proof counts: a process that was halted received no change in that time."""
_MAX_TRACKED_CHANGES: Final = 10_000
"""Changes that are remembered one by one; a ticket older than all of them is void."""

_MOST_ISSUERS: Final = 4096
"""Issuers and tenants whose revocations are remembered; before there are more, all are forgotten."""

Ticket: TypeAlias = int
"""The number of changes that had been received when a read began."""
IdentityKey: TypeAlias = tuple[str, str]
"""`iss` and `sub`."""
TokenKey: TypeAlias = tuple[str, str]
"""The issuer's name or realm, and the `jti`."""
ChangeKey: TypeAlias = str | tuple[str, str]
"""What changed: an identity, a token, a user's id, or an issuer's name or realm."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: IdentityKey
    answer: Resolution
    user_at: float | None
    """The user's tokens issued at or before this instant are revoked. Unix seconds."""
    stored_at: float
    """When Postgres said so; Unix seconds."""
    ticket: Ticket
    until: float
    """The end of the entry's life, by the tier's clock."""


class LocalCache:
    """Bounded memory of users, misses, tokens that are not revoked, and revocations of issuers.

    An entry is answered for `ttl` seconds at most, and no entry later than `PROOF_LIFETIME` after the last
    proof that every change is received. `clock` gives seconds, from any beginning.
    """

    def __init__(
        self,
        *,
        ttl: float,
        max_users: int,
        max_tokens: int,
        clock: Callable[[], float],
        reused: defaultdict[str, int] | None = None,
    ) -> None:
        """`reused` counts, by issuer, the answers that `is_valid` confirmed."""
        self._reused = defaultdict(int) if reused is None else reused
        self._ttl = ttl
        self._clock = clock
        self._open = False
        self._proven_until = -math.inf
        self._users: LRU[IdentityKey, _Entry] = LRU(max_users)
        self._absent: LRU[IdentityKey, _Entry] = LRU(max_users)
        self._identities: dict[str, IdentityKey | list[IdentityKey]] = {}
        """User id → the key in `_users` that leads to that user, or all that do: a list takes more room."""
        self._tokens: FIFO[TokenKey, float] = FIFO(max_tokens)
        """Until when a token counts as not revoked."""
        self._issuers: dict[str, tuple[float, float | None]] = {}
        """Issuer name → until when its revocations are known, and up to which `iat` tokens are revoked."""
        # Keys of different kinds may be equal: that voids one ticket too many, which is harmless.
        self._dropped: LRU[ChangeKey, int] = LRU(_MAX_TRACKED_CHANGES)
        self._changes = 0
        self._flushed = 0
        self._tracked_from = 0
        self._user_changed = 0
        """The last change of any user."""

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def trusted(self) -> bool:
        """Whether every change so far has been received."""
        return self._clock() < self._proven_until

    @property
    def users(self) -> int:
        return len(self._users)

    @property
    def absent(self) -> int:
        return len(self._absent)

    @property
    def tokens(self) -> int:
        return len(self._tokens)

    # Answers -----------------------------------------------------------------------------------------

    def recall(self, claims: Claims) -> Resolution | None:
        """Answer for a token from memory; None if a store must be asked."""
        now = self._clock()
        if now >= self._proven_until:
            return None
        key = (claims.issuer, claims.subject)
        entry = self._users.get(key) or self._absent.get(key)
        if entry is None or entry.ticket < self._flushed or now >= self._until(entry, claims):
            return None
        return entry.answer

    def validity(self, claims: Claims) -> Validity | None:
        """Return how long the answer that `recall` gives at this moment is valid; None when there is none."""
        answer = self.recall(claims)
        entry = None if answer is None else self._users.get((claims.issuer, claims.subject))
        if entry is None:
            return None
        return Validity(claims, entry.answer, self._until(entry, claims), self._changes)

    def is_valid(self, validity: Validity) -> bool:
        """Tell whether `recall` would still give the answer that a validity was returned for."""
        now = self._clock()
        if now >= self._proven_until or now >= validity.until:
            return False
        if validity.ticket != self._changes:
            if validity.ticket < self._flushed or self._void(
                validity.ticket, validity.claims, validity.answer.user
            ):
                return False
            validity.ticket = self._changes
        self._reused[validity.claims.issuer_name] += 1
        return True

    def _until(self, entry: _Entry, claims: Claims) -> float:
        """Return until when an entry answers for a token; minus infinity if a revocation hits the token."""
        if hits(entry.user_at, claims.issued_at):
            return -math.inf
        until = entry.until
        for name in claims.issuer_names:
            issuer = self._issuers.get(name)
            if issuer is None or hits(issuer[1], claims.issued_at):
                return -math.inf
            until = min(until, issuer[0])
            if claims.jti is not None:
                until = min(until, self._tokens.get((name, claims.jti)) or -math.inf)
        return until

    def last_known(self, claims: Claims) -> tuple[User | None, float] | None:
        """Return the user, or None for a miss, and when Postgres said so; it may have changed since."""
        entry = self._held((claims.issuer, claims.subject))
        return None if entry is None else (entry.answer.user, entry.stored_at)

    def up_to_date(self, claims: Claims) -> bool:
        """Tell whether a change of the last known answer would have been received."""
        entry = self._held((claims.issuer, claims.subject))
        return self.trusted and entry is not None and entry.ticket >= self._flushed

    def _held(self, key: IdentityKey) -> _Entry | None:
        return self._users.get(key) or self._absent.get(key)

    # Filling -----------------------------------------------------------------------------------------

    def ticket(self) -> Ticket:
        """Return the ticket with which a read fills the tier; take it before any store is asked."""
        return self._changes

    def concerns(self, claims: Claims, user: User | None) -> list[ChangeKey]:
        """Return the keys whose changes concern a token and its user."""
        keys: list[ChangeKey] = [(claims.issuer, claims.subject), *claims.issuer_names]
        if user is not None:
            keys.append(user.id)
        if claims.jti is not None:
            keys += [(name, claims.jti) for name in claims.issuer_names]
        return keys

    def last_change(self, claims: Claims) -> Ticket:
        """Return the ticket of the last change that may concern a token and its user."""
        # The user may not be known yet.
        keys = self.concerns(claims, None)
        latest = max(self._dropped.peek(key) or 0 for key in keys)
        return max(self._tracked_from, self._flushed, self._user_changed, latest)

    def changed_since(self, ticket: Ticket) -> Set[ChangeKey] | None:
        """Return the keys that changed since a ticket was taken; None: any key may have changed."""
        if ticket < self._flushed or ticket < self._tracked_from:
            return None
        return {key for key, _ in takewhile(lambda entry: entry[1] > ticket, self._dropped.newest())}

    def learn(self, ticket: Ticket, claims: Claims, user: User | None, stored_at: float) -> None:
        """Remember what Postgres said at `stored_at`, only as the last known answer."""
        if self._void(ticket, claims, user):
            return
        key = (claims.issuer, claims.subject)
        held = self._held(key)
        if held is None or held.stored_at <= stored_at:
            self._put(_Entry(key, _answer(user), None, stored_at, ticket, -math.inf))

    def fill(
        self,
        ticket: Ticket,
        claims: Claims,
        user: User | None,
        stored_at: float,
        revocations: Revocations,
        lifetime: float,
    ) -> None:
        """Remember a token's user, or that there is none, and the revocations that concern the token.

        `lifetime` is the time in seconds for which the user may be answered. With a void ticket, nothing is
        remembered.
        """
        if not self._open or ticket < self._flushed or self._void(ticket, claims, user):
            return
        now = self._clock()
        key, jti = (claims.issuer, claims.subject), claims.jti
        longest = now + self._ttl
        until = longest if lifetime >= self._ttl else now + lifetime
        self._put(_Entry(key, _answer(user), revocations.user_at, stored_at, ticket, until))
        if len(self._issuers) >= _MOST_ISSUERS:
            self._issuers.clear()
        for name in claims.issuer_names:
            self._issuers[name] = (longest, revocations.issuer_at)
            if jti is not None and not revocations.token:
                self._tokens.shed(lambda until: now >= until)
                self._tokens.put((name, jti), longest)

    def _void(self, ticket: Ticket, claims: Claims, user: User | None) -> bool:
        """Tell whether a change since the ticket was taken concerns a token or its user."""
        if ticket == self._changes:
            return False
        return ticket < self._tracked_from or any(
            ticket < (self._dropped.peek(key) or 0) for key in self.concerns(claims, user)
        )

    def _put(self, entry: _Entry) -> None:
        self._pop(entry.key)
        user = entry.answer.user
        if user is None:
            self._absent.put(entry.key, entry)
            return
        known = self._identities.get(user.id)
        if known is None:
            self._identities[user.id] = entry.key
        else:
            self._identities[user.id] = [*_all(known), entry.key]
        evicted = self._users.put(entry.key, entry)
        if evicted is not None:
            self._unindex(evicted)

    # Changes -----------------------------------------------------------------------------------------

    def forget_identities(self, identities: Iterable[IdentityKey]) -> None:
        for key in identities:
            self._drop(key)
            self._pop(key)

    def forget_users(self, ids: Iterable[str]) -> None:
        """Drop users by their id, whatever identities lead to them."""
        for user_id in ids:
            self._drop(user_id)
            self._user_changed = self._changes
            for key in _all(self._identities.get(user_id)):
                self._pop(key)

    def forget_tokens(self, tokens: Iterable[TokenKey]) -> None:
        for key in tokens:
            self._drop(key)
            self._tokens.pop(key, None)

    def forget_issuers(self, names: Iterable[str]) -> None:
        """Drop the revocations of whole issuers."""
        for name in names:
            self._drop(name)
            self._issuers.pop(name, None)

    def flush(self) -> None:
        """Answer with no entry of before, and void all tickets. Users stay as last known ones."""
        self._changes += 1
        self._flushed = self._changes
        self._absent.clear()
        self._tokens.clear()
        self._issuers.clear()

    def forget_everything(self) -> None:
        """Flush, and forget the last known users, too."""
        self.flush()
        self._tracked_from = self._changes
        self._users.clear()
        self._identities.clear()
        self._dropped.clear()

    def open(self) -> None:
        """Begin to answer, with an empty memory: from now on, every change is received."""
        self.flush()
        self._open = True
        self.prove()

    def prove(self) -> None:
        """Record a proof that every change so far has been received."""
        if self._open:
            self._proven_until = self._clock() + PROOF_LIFETIME

    def close(self) -> None:
        """Stop answering, because changes may be missed."""
        self._open = False
        self._proven_until = -math.inf
        self.flush()

    def _drop(self, key: ChangeKey) -> None:
        self._changes += 1
        evicted = self._dropped.put(key, self._changes)
        if evicted is not None:
            self._tracked_from = max(self._tracked_from, evicted)

    def _pop(self, key: IdentityKey) -> None:
        self._absent.pop(key)
        entry = self._users.pop(key)
        if entry is not None:
            self._unindex(entry)

    def _unindex(self, entry: _Entry) -> None:
        user = entry.answer.user
        if user is None:
            return
        left = [key for key in _all(self._identities.get(user.id)) if key != entry.key]
        if left:
            self._identities[user.id] = left if len(left) > 1 else left[0]
        else:
            self._identities.pop(user.id, None)


def _all(known: IdentityKey | list[IdentityKey] | None) -> list[IdentityKey]:
    """Return the keys that lead to a user."""
    if known is None:
        return []
    return known if isinstance(known, list) else [known]


def _answer(user: User | None) -> Resolution:
    return Resolution(user, Tier.LOCAL, None, Tier.LOCAL)
