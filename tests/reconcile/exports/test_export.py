import gzip
import io
from collections.abc import Callable

import pytest

from gateway.reconcile.exports.export import Export
from gateway.reconcile.exports.text import BadExport
from tests.reconcile.exports.shapes import COGNITO, ENTRA, GOOGLE, KEYCLOAK, OKTA, SHAPES, Shape

NOW = 1_790_000_000.0


def opened(text: str | bytes, *, claim: str = "sub", column: str | None = None, name: str = "") -> Export:
    octets = text.encode() if isinstance(text, str) else text
    return Export(io.BytesIO(octets), claim=claim, column=column, name=name)


def chosen(text: str | bytes, *, claim: str = "sub", column: str | None = None) -> Export:
    export = opened(text, claim=claim, column=column)
    export.choose()
    return export


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "byte order mark": lambda text: text.removeprefix("\ufeff").encode("utf-8-sig"),
    "CR LF": lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n").encode(),
    "UTF-16 of PowerShell": lambda text: text.removeprefix("\ufeff").encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.removeprefix("\ufeff").encode("utf-16-le"),
    "gzip": lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize("encoded", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_shapes_of_the_providers_are_read_unedited(shape: Shape, encoded: Callable[[str], bytes]) -> None:
    export = chosen(encoded(shape.text), claim=shape.claim)

    read = [(a.subject, a.email, a.name, a.status) for a in export.accounts(now=NOW)]

    assert read == shape.users
    assert (export.provider, export.field) == (shape.provider, shape.field)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_subjects_are_those_of_the_accounts(shape: Shape) -> None:
    export = chosen(shape.text, claim=shape.claim)

    assert [subject for _, subject in export.subjects()] == [user[0] for user in shape.users]


def test_known_identities_decide_which_field_has_the_subjects() -> None:
    export = opened(OKTA[0].text, claim="sub")
    assert [each.names[0] for each in export.candidates] == ["id", "profile.login"]
    assert export.sample(1) == [["00u1"], ["ann@corp.example"]]

    export.choose([1, 0])

    assert [subject for _, subject in export.subjects()] == ["00u1", "00u2"]


def test_lines_are_counted_in_json_and_csv() -> None:
    pretty = next(shape for shape in KEYCLOAK if shape.name == "keycloak kcadm")

    assert [line for line, _ in chosen(pretty.text).subjects()] == [1, 13]
    assert [line for line, _ in chosen('[{"sub":\n"a"}\n\n,{"sub":"b"}]').subjects()] == [1, 4]
    assert [line for line, _ in chosen('sub,x\na,"1\n2"\n\nb,\n').subjects()] == [2, 5]


def test_roles_and_tenants_are_read_from_the_fields_that_are_named() -> None:
    kcadm = chosen(KEYCLOAK[0].text)
    table = chosen('sub,groups,org\nann,"a, b;c",eu\nbob,,\n')

    assert [each.roles for each in kcadm.accounts(now=NOW, roles="realmRoles")] == [("editor",), ()]
    assert [(each.roles, each.tenant) for each in table.accounts(now=NOW, roles="groups", tenant="org")] == [
        (("a", "b", "c"), "eu"),
        ((), None),
    ]


@pytest.mark.parametrize(
    ("text", "claim", "wrong"),
    [
        (GOOGLE[1].text, "sub", "this export of Google Workspace has no field for the claim `sub`"),
        (ENTRA[0].text, "sub", "this export of Entra ID has no field for the claim `sub`"),
        (COGNITO[1].text.replace(",sub,", ",x,"), "sub", "this export of Cognito has no field for the claim"),
        ('{"realm": "x", "clients": []}', "sub", "line 1: this export of a realm has no users"),
        ("<!DOCTYPE html>\n", "sub", "line 1: it is HTML or XML"),
        (b"PK\x03\x04\x14\x00", "sub", "line 1: it is a ZIP archive or an Excel file"),
        ("sub\n1.13976E+20\n", "sub", "line 2: its subject is a number that a spreadsheet has rounded"),
        (gzip.compress(b"sub\n" + b"ann\n" * 99, mtime=0)[:-9], "sub", "the gzip file is damaged"),
        ("sub\nann\n".encode("utf-16")[:-1], "sub", "it is not UTF-8 text"),
        ('[{"sub": "a"}\n{"sub": "b"}]', "sub", "line 2: it is not JSON"),
        ('[{"sub": "a"},', "sub", "line 1: it is not JSON"),
        ('{"users": [{"sub": "a"}', "sub", "line 1: it is not JSON"),
        ('{"sub": "a"}\n{"sub": "b"', "sub", "line 2: it is not JSON"),
        ('{"sub": ' + "[" * 100_000, "sub", "line 1: it is not JSON"),
        ('["a", ' + "[" * 100_000, "sub", "line 1: it is not JSON"),
        ('{"sub": "a", "x": ' + "[" * 100 + "]" * 100 + "}", "sub", "deeper than 64 levels"),
        ('{"x": "' + "y" * 1_400_000, "sub", "line 1: it has a value of more than 1 MiB"),
    ],
)
def test_an_unreadable_export_is_reported(text: str | bytes, claim: str, wrong: str) -> None:
    with pytest.raises(BadExport, match=wrong.replace("(", r"\(")) as refused:
        list(chosen(text, claim=claim).subjects())

    assert refused.value.advice


def test_addresses_may_stand_in_for_subjects() -> None:
    export = opened(GOOGLE[1].text.replace("ann@", "Ann@"))

    export.choose(or_email=True)

    assert [subject for _, subject in export.subjects()] == ["ann@example.com", "bob@example.com"]


class Endless(io.RawIOBase):
    """An array on one line, produced while it is read."""

    def __init__(self, users: int) -> None:
        self._left = users
        self._rest = b"["

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and self._left:
            self._left -= 1
            end = b"," if self._left else b"]"
            self._rest += (
                b'{"id":"00u%d","status":"ACTIVE","profile":{"login":"u%d"}}' % ((self._left,) * 2) + end
            )
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def test_a_long_array_on_one_line_is_read_in_bounded_memory() -> None:
    import tracemalloc

    export = Export(Endless(20_000), claim="uid")  # type: ignore[arg-type]  # it has the one method that is called
    export.choose()
    tracemalloc.start()
    try:
        assert sum(1 for _ in export.subjects()) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
