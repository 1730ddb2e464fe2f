"""The local tier: its answers, what it drops, and which reads may fill it."""

from collections.abc import Callable

import pytest

from gateway.core.model import Claims, Resolution, Tier, User, UserStatus, Validity
from gateway.core.revocations import Revocations
from gateway.identity import local_cache
from gateway.identity.local_cache import PROOF_LIFETIME, LocalCache, Ticket
from tests.stores.examples import ISS, claims

ANN = User("ann-id", UserStatus.ACTIVE)
NOTHING_REVOKED = Revocations()
BOB = User("bob-id", UserStatus.ACTIVE)


class Memory:
    """A tier that is open, at a time of the test's choosing."""

    def __init__(self, max_users: int = 100, max_tokens: int = 100, *, opened: bool = True) -> None:
        self.now = 1_000.0
        self.tier = LocalCache(ttl=30, max_users=max_users, max_tokens=max_tokens, clock=lambda: self.now)
        if opened:
            self.tier.open()

    def after(self, seconds: float) -> None:
        """Let time pass, during which every change was heard of."""
        self.now += seconds
        self.tier.prove()

    def fill(
        self,
        token: Claims | None = None,
        user: User | None = ANN,
        *,
        ticket: Ticket | None = None,
        revocations: Revocations = NOTHING_REVOKED,
        stored_at: float = 0.0,
        lifetime: float = 30.0,
    ) -> None:
        self.tier.fill(
            self.tier.ticket() if ticket is None else ticket,
            token or claims(),
            user,
            stored_at,
            revocations,
            lifetime,
        )

    def validity(self, token: Claims | None = None) -> Validity:
        validity = self.tier.validity(token or claims())
        assert validity is not None
        return validity


@pytest.fixture
def memory() -> Memory:
    return Memory()


class TestAnswers:
    def test_a_filled_entry_is_answered_with_the_same_object(self, memory: Memory) -> None:
        assert memory.tier.recall(claims()) is None
        memory.fill()
        answer = memory.tier.recall(claims())
        assert answer == Resolution(ANN, Tier.LOCAL, None, Tier.LOCAL)
        assert memory.tier.recall(claims()) is answer

    def test_a_miss_is_answered_too(self, memory: Memory) -> None:
        memory.fill(user=None, lifetime=5)
        assert memory.tier.recall(claims()) == Resolution(None, Tier.LOCAL, None, Tier.LOCAL)
        memory.after(5)
        assert memory.tier.recall(claims()) is None

    def test_another_token_of_a_known_user_is_not_known(self, memory: Memory) -> None:
        memory.fill()
        assert memory.tier.recall(claims(jti="token-2")) is None

    def test_a_token_without_jti_needs_no_verdict_of_its_own(self, memory: Memory) -> None:
        memory.fill(claims(jti=None))
        assert memory.tier.recall(claims(jti=None)) is not None
        assert memory.tier.recall(claims()) is None
        assert memory.tier.tokens == 0
        memory.fill()
        assert memory.tier.recall(claims(jti=None)) is not None

    @pytest.mark.parametrize(("lifetime", "until"), [(10, 10), (30, 30), (100, 30)])
    def test_an_answer_expires(self, memory: Memory, lifetime: float, until: float) -> None:
        memory.fill(lifetime=lifetime)
        memory.after(until - 0.1)
        assert memory.tier.recall(claims()) is not None
        memory.after(0.1)
        assert memory.tier.recall(claims()) is None

    def test_a_verdict_expires_on_its_own(self, memory: Memory) -> None:
        memory.fill()
        memory.after(20)
        memory.fill(claims(jti="token-2"))
        memory.after(10)
        assert memory.tier.recall(claims(jti="token-2")) is not None
        assert memory.tier.recall(claims()) is None

    @pytest.mark.parametrize("revocations", [Revocations(user_at=1000.0), Revocations(issuer_at=1000.0)])
    @pytest.mark.parametrize(("issued_at", "known"), [(1000.0, False), (1000.5, True), (None, False)])
    def test_only_the_stores_decide_on_a_refused_user(
        self, memory: Memory, revocations: Revocations, issued_at: float | None, known: bool
    ) -> None:
        memory.fill(revocations=revocations)
        assert (memory.tier.recall(claims(issued_at=issued_at)) is not None) is known

    def test_a_revoked_token_takes_no_memory(self, memory: Memory) -> None:
        memory.fill(revocations=Revocations(token=True))
        assert memory.tier.recall(claims()) is None
        assert memory.tier.tokens == 0

    def test_subjects_of_two_issuers_are_two_identities(self, memory: Memory) -> None:
        memory.fill()
        assert memory.tier.recall(claims(issuer_name="other", iss="https://other.example.com/")) is None


class TestTrust:
    @pytest.mark.parametrize("opened", [True, False])
    def test_a_closed_tier_answers_nothing_and_takes_nothing(self, opened: bool) -> None:
        memory = Memory(opened=opened)
        memory.fill()
        if opened:
            memory.tier.close()
        assert memory.tier.recall(claims()) is None
        for proven in (False, True):
            if proven:
                memory.tier.prove()
            memory.fill(claims("bob"), BOB)
            assert memory.tier.recall(claims("bob")) is None
            assert (memory.tier.is_open, memory.tier.trusted) == (False, False)
        assert memory.tier.last_known(claims("bob")) is None
        memory.tier.open()
        assert memory.tier.recall(claims()) is None
        assert memory.tier.is_open

    @pytest.mark.parametrize("break_off", ["flush", "close", "forget_everything"])
    def test_a_read_that_began_before_a_break_fills_nothing(self, memory: Memory, break_off: str) -> None:
        ticket = memory.tier.ticket()
        getattr(memory.tier, break_off)()
        memory.tier.open()
        memory.fill(ticket=ticket)
        assert memory.tier.recall(claims()) is None
        # Nor what another read says of the user and the issuer then.
        memory.fill(claims(jti="token-2"))
        assert memory.tier.recall(claims(jti="token-2")) is not None
        assert memory.tier.recall(claims()) is None

    @pytest.mark.parametrize("break_off", ["flush", "close", "forget_everything"])
    def test_another_read_does_not_vouch_for_what_was_known_before_a_break(
        self, memory: Memory, break_off: str
    ) -> None:
        memory.fill()
        memory.fill(claims("bob", jti=None), BOB)
        getattr(memory.tier, break_off)()
        memory.tier.open()
        memory.fill(claims(jti="token-2"))
        assert memory.tier.recall(claims(jti="token-2")) is not None
        assert memory.tier.recall(claims()) is None
        assert memory.tier.recall(claims("bob", jti=None)) is None

    def test_a_read_that_began_while_closed_fills_nothing(self) -> None:
        memory = Memory()
        memory.tier.close()
        ticket = memory.tier.ticket()
        memory.tier.open()
        memory.fill(ticket=ticket)
        assert memory.tier.recall(claims()) is None

    def test_a_process_that_was_halted_does_not_answer_until_it_has_looked(self, memory: Memory) -> None:
        memory.fill()
        trusted = [memory.tier.trusted]
        memory.now += PROOF_LIFETIME
        trusted.append(memory.tier.trusted)
        assert memory.tier.recall(claims()) is None
        memory.tier.prove()
        trusted.append(memory.tier.trusted)
        assert trusted == [True, False, True]
        assert memory.tier.recall(claims()) is not None

    def test_a_proof_does_not_open_a_closed_tier(self, memory: Memory) -> None:
        memory.fill()
        memory.tier.close()
        memory.tier.prove()
        assert memory.tier.recall(claims()) is None

    def test_a_flush_leaves_the_last_known_user(self, memory: Memory) -> None:
        memory.fill(stored_at=7.0)
        memory.tier.flush()
        assert memory.tier.recall(claims()) is None
        assert memory.tier.last_known(claims()) == (ANN, 7.0)
        memory.tier.forget_everything()
        assert memory.tier.last_known(claims()) is None


class TestLeases:
    def test_it_names_the_user_and_counts_as_long_as_memory_does(self, memory: Memory) -> None:
        memory.fill(lifetime=20)
        validity = memory.validity()
        assert validity.answer is memory.tier.recall(claims())
        memory.after(19)
        assert memory.tier.is_valid(validity)
        memory.after(1)
        assert not memory.tier.is_valid(validity)

    def test_it_does_not_outlive_the_revocations_of_the_token(self, memory: Memory) -> None:
        memory.fill(claims(jti="token-2"))
        memory.after(20)
        memory.fill(claims(jti="token-1"))
        validity = memory.validity(claims(jti="token-2"))
        memory.after(11)
        assert memory.tier.recall(claims(jti="token-1")) is not None
        assert not memory.tier.is_valid(validity)

    def test_an_answer_that_memory_does_not_give_has_no_validity(self, memory: Memory) -> None:
        assert memory.tier.validity(claims()) is None
        memory.fill()
        assert memory.tier.validity(claims(jti="token-2")) is None
        memory.fill(claims("nobody"), None)
        assert memory.tier.validity(claims("nobody")) is None
        memory.tier.close()
        assert memory.tier.validity(claims()) is None

    def test_it_counts_only_while_every_change_is_received(self, memory: Memory) -> None:
        memory.fill()
        validity = memory.validity()
        memory.now += PROOF_LIFETIME
        assert not memory.tier.is_valid(validity)
        memory.tier.prove()
        assert memory.tier.is_valid(validity)

    @pytest.mark.parametrize("end", ["flush", "forget_everything", "close"])
    def test_it_ends_with_the_memory(self, memory: Memory, end: str) -> None:
        memory.fill()
        validity = memory.validity()
        getattr(memory.tier, end)()
        memory.tier.open()
        memory.fill()
        assert memory.tier.recall(claims()) is not None
        assert not memory.tier.is_valid(validity)

    def test_more_changes_than_are_remembered_end_it(self, memory: Memory) -> None:
        memory.fill()
        validity = memory.validity()
        memory.tier.forget_users([ANN.id])
        memory.tier.forget_tokens(("main", str(number)) for number in range(10_000))
        assert not memory.tier.is_valid(validity)


CHANGES = pytest.mark.parametrize(
    ("change", "what", "forgotten"),
    [
        ("forget_identities", (ISS, "ann"), True),
        ("forget_identities", (ISS, "bob"), False),
        ("forget_users", ANN.id, True),
        ("forget_users", BOB.id, False),
        ("forget_tokens", ("main", "token-1"), True),
        ("forget_tokens", ("main", "token-2"), False),
        ("forget_tokens", ("other", "token-1"), False),
        ("forget_issuers", "main", True),
        ("forget_issuers", "other", False),
    ],
)


class TestChanges:
    @CHANGES
    @pytest.mark.parametrize("began_before", [True, False])
    def test_a_change_drops_its_entries_and_voids_earlier_reads(
        self, memory: Memory, change: str, what: object, forgotten: bool, began_before: bool
    ) -> None:
        memory.fill()
        ticket = memory.tier.ticket()
        getattr(memory.tier, change)([what])
        assert (memory.tier.recall(claims()) is None) is forgotten
        if not began_before:
            ticket = memory.tier.ticket()
        memory.tier.forget_users(["another"])
        memory.fill(ticket=ticket)
        assert (memory.tier.recall(claims()) is None) is (forgotten and began_before)

    @CHANGES
    @pytest.mark.parametrize("user", [ANN, BOB])
    def test_a_validity_ends_where_memory_does(
        self, memory: Memory, change: str, what: object, forgotten: bool, user: User
    ) -> None:
        """The validity holds for the user that memory leads to by that time, too."""
        memory.fill()
        validity = memory.validity()
        for _ in range(2):
            memory.tier.forget_users(["another"])
            assert memory.tier.is_valid(validity)
        memory.fill(user=user)
        getattr(memory.tier, change)([what])
        assert memory.tier.is_valid(validity) is not forgotten
        memory.fill()
        assert memory.tier.is_valid(validity) is not forgotten

    def test_a_user_is_dropped_under_every_identity(self, memory: Memory) -> None:
        for subject in ("ann", "ann-too"):
            memory.fill(claims(subject))
        memory.fill(claims("bob"), BOB)
        memory.tier.forget_users([ANN.id])
        assert [memory.tier.recall(claims(subject)) is None for subject in ("ann", "ann-too", "bob")] == [
            True,
            True,
            False,
        ]
        assert memory.tier.last_known(claims("ann-too")) is None

    def test_an_identity_that_leads_to_another_user_follows_that_user(self, memory: Memory) -> None:
        memory.fill()
        memory.fill(user=BOB)
        memory.tier.forget_users([ANN.id])
        assert memory.tier.recall(claims()) is not None
        memory.tier.forget_users([BOB.id])
        assert memory.tier.recall(claims()) is None

    def test_a_miss_is_dropped_by_the_identity(self, memory: Memory) -> None:
        memory.fill(user=None)
        memory.tier.forget_identities([(ISS, "ann")])
        assert memory.tier.recall(claims()) is None

    def test_more_changes_than_are_remembered_void_a_ticket(self, memory: Memory) -> None:
        ticket = memory.tier.ticket()
        memory.tier.forget_identities([(ISS, "ann")])
        memory.tier.forget_tokens(("main", str(number)) for number in range(10_000))
        memory.fill(ticket=ticket)
        assert memory.tier.recall(claims()) is None
        memory.fill()
        assert memory.tier.recall(claims()) is not None

    def test_the_last_change_of_a_token_and_its_user_is_known(self, memory: Memory) -> None:
        memory.fill()
        before = memory.tier.last_change(claims())
        memory.tier.forget_identities([(ISS, "bob")])
        assert memory.tier.last_change(claims()) == before
        changes: list[Callable[[], None]] = [
            lambda: memory.tier.forget_tokens([("main", "token-1")]),
            lambda: memory.tier.forget_issuers(["main"]),
            lambda: memory.tier.forget_identities([(ISS, "ann")]),
            # It is no longer known whose id that is.
            lambda: memory.tier.forget_users([ANN.id]),
        ]
        for change in changes:
            change()
            assert memory.tier.last_change(claims()) == memory.tier.ticket() > before

    def test_keys_that_changed_since_a_ticket_are_named(self, memory: Memory) -> None:
        tier = memory.tier
        tier.forget_users(["early"])
        ticket = tier.ticket()
        assert tier.changed_since(ticket) == set()
        tier.forget_identities([(ISS, "ann")])
        tier.forget_tokens([("main", "token-1")])
        # A query about a change does not make the change later.
        tier.last_change(claims())
        tier.forget_issuers(["other"])
        changes = tier.changed_since(ticket)
        assert changes == {(ISS, "ann"), ("main", "token-1"), "other"}
        assert set(tier.concerns(claims(), ANN)) == {(ISS, "ann"), ("main", "token-1"), "main", ANN.id}
        assert tier.changed_since(tier.ticket()) == set()

    @pytest.mark.parametrize("why", ["flush", "forget_everything", "open", "close", "many"])
    def test_any_key_may_have_changed(self, memory: Memory, why: str) -> None:
        ticket = memory.tier.ticket()
        if why == "many":
            memory.tier.forget_users(str(number) for number in range(10_001))
        else:
            getattr(memory.tier, why)()
        assert memory.tier.changed_since(ticket) is None
        assert memory.tier.changed_since(memory.tier.ticket()) == set()


class TestLastKnown:
    def test_a_learnt_entry_is_not_answered(self, memory: Memory) -> None:
        memory.fill(claims("bob", jti=None), BOB)
        memory.tier.learn(memory.tier.ticket(), claims(jti=None), ANN, 7.0)
        # The issuer is known.
        assert memory.tier.recall(claims(jti=None)) is None
        assert memory.tier.last_known(claims()) == (ANN, 7.0)

    def test_the_latest_is_known(self, memory: Memory) -> None:
        changed = User(ANN.id, UserStatus.LOCKED)
        for user, stored_at in ((ANN, 9.0), (changed, 9.0), (ANN, 8.0)):
            memory.tier.learn(memory.tier.ticket(), claims(), user, stored_at)
        assert memory.tier.last_known(claims()) == (changed, 9.0)
        memory.tier.learn(memory.tier.ticket(), claims(), None, 10.0)
        assert memory.tier.last_known(claims()) == (None, 10.0)
        assert (memory.tier.users, memory.tier.absent) == (0, 1)

    def test_it_is_learnt_while_closed_but_not_against_a_change(self, memory: Memory) -> None:
        memory.tier.close()
        ticket = memory.tier.ticket()
        memory.tier.forget_users([ANN.id])
        memory.tier.learn(ticket, claims(), ANN, 7.0)
        assert memory.tier.last_known(claims()) is None
        memory.tier.learn(memory.tier.ticket(), claims(), ANN, 8.0)
        assert memory.tier.last_known(claims()) == (ANN, 8.0)

    def test_it_is_not_learnt_by_a_read_that_began_before_all_was_forgotten(self, memory: Memory) -> None:
        ticket = memory.tier.ticket()
        memory.tier.forget_everything()
        memory.tier.learn(ticket, claims(), ANN, 7.0)
        assert memory.tier.last_known(claims()) is None

    def test_it_is_up_to_date_while_its_changes_are_received(self, memory: Memory) -> None:
        assert not memory.tier.up_to_date(claims())
        memory.fill(lifetime=1)
        memory.fill(claims("ghost"), None)
        memory.after(10)
        # Also when its time is over.
        assert memory.tier.up_to_date(claims(jti="another"))
        assert memory.tier.up_to_date(claims("ghost"))
        assert not memory.tier.up_to_date(claims("bob"))
        memory.now += PROOF_LIFETIME
        assert not memory.tier.up_to_date(claims())
        memory.tier.prove()
        memory.tier.flush()
        assert not memory.tier.up_to_date(claims())
        memory.fill()
        assert memory.tier.up_to_date(claims())


class TestBounds:
    def test_memory_is_bounded(self) -> None:
        memory = Memory(max_users=3, max_tokens=4)
        for number in range(20):
            memory.fill(claims(f"user-{number}", jti=f"a-{number}"), User(str(number), UserStatus.ACTIVE))
            memory.fill(claims(f"ghost-{number}", jti=f"b-{number}"), None)
        assert (memory.tier.users, memory.tier.absent, memory.tier.tokens) == (3, 3, 4)
        assert len(memory.tier._identities) == 3
        memory.tier.forget_everything()
        assert memory.tier._identities == {}

    def test_the_issuers_are_bounded(self, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_cache, "_MOST_ISSUERS", 3)
        for number in range(3):
            memory.fill(claims(issuer_name=f"main/{number}"))
        assert len(memory.tier._issuers) == 3
        memory.fill(claims(issuer_name="main/3"))
        assert memory.tier.recall(claims(issuer_name="main/3")) is not None
        assert len(memory.tier._issuers) == 1

    def test_the_same_user_under_many_identities_leaves_nothing_behind(self) -> None:
        memory = Memory(max_users=2)
        for number in range(20):
            memory.fill(claims(f"ann-{number}"))
        assert memory.tier._identities == {ANN.id: [(ISS, "ann-18"), (ISS, "ann-19")]}

    def test_tokens_that_are_used_no_more_are_given_up(self, memory: Memory) -> None:
        for number in range(50):
            memory.fill(claims(jti=f"old-{number}"))
        memory.after(31)
        memory.fill(claims(jti="new"))
        assert memory.tier.tokens == 1
