import pytest

from gateway.reconcile.adopt import naming


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("emailVerified", "email_verified"),
        ("AspNetUsers", "asp_net_users"),
        ("user_id", "user_id"),
        ("providerAccountId", "provider_account_id"),
        ("USER_ID", "user_id"),
        ("auth0_id", "auth_0_id"),
        ("HTTPUser", "http_user"),
        ("", ""),
        ("Benutzer-Konto", "benutzer_konto"),
    ],
)
def test_the_words_of_a_name(name: str, words: str) -> None:
    assert naming.words(name) == words


@pytest.mark.parametrize(
    ("table", "thing"),
    [
        ("auth_user", "user"),
        ("AspNetUsers", "user"),
        ("tbl_users_v2", "user"),
        ("people", "person"),
        ("companies", "company"),
        ("user_status", "status"),
        ("user_address", "address"),
        ("users2", "user"),
        ("data", "data"),
        ("", ""),
    ],
)
def test_the_kind_of_thing_that_a_table_holds(table: str, thing: str) -> None:
    assert naming.thing(table) == thing


def test_a_prefix_that_repeats_the_table_says_nothing() -> None:
    assert naming.score("user_email", {"email": 6}, "users") == 6
    assert naming.score("user_email", {"email": 6}, "orders") == 0
    assert naming.score("user_id", {"id": 3}, "AppUsers") == 3
