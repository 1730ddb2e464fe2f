"""`/v1/users`: the user directory. A change must name the state that it is based on (RFC 9110 §13.1.1)."""

import hashlib
from collections.abc import Callable, Mapping
from urllib.parse import quote

from aiohttp import web

from gateway.admin.api import models
from gateway.admin.api.operations import Answer, Operation, author_of, json, reads, takes
from gateway.admin.api.problems import FieldError, RequestRefused, invalid
from gateway.admin.api.write_through import WriteThrough
from gateway.core.model import Identity, UserStatus
from gateway.core.tokens.issuer_patterns import IssuerNames, is_pattern
from gateway.stores.postgres.directory.user_rows import UserChanges, UserIdMalformed, UserRecord
from gateway.stores.postgres.directory.users import microseconds
from gateway.stores.postgres.source.directory.users import AnyDirectory

_TAG = {"ETag": "The state of the user: send it in If-Match."}
_USER = Answer(model=models.User, headers=_TAG)


class Users:
    """`issuers` maps configured names to their `iss`."""

    def __init__(
        self, directory: AnyDirectory, write_through: WriteThrough, issuers: Mapping[str, str]
    ) -> None:
        self._directory = directory
        self._write_through = write_through
        self._issuers = issuers
        self._names = IssuerNames(issuers).by_iss

    def operations(self) -> list[Operation]:
        created = Answer(201, models.User, {**_TAG, "Location": "The path of the user."})
        return [
            reads("GET", "/users", self.search_users, models.UserSearch, "Search users, oldest first",
                  Answer(model=models.UserPage)),
            takes("POST", "/users", self.create_user, models.NoParams, models.NewUser,
                  "Create a user with its first identity", created, refusals=(409,)),
            reads("GET", "/users/{id}", self.show_user, models.UserParams, "Show a user", _USER,
                  refusals=(404,)),
            takes("PATCH", "/users/{id}", self.change_user, models.UserParams, models.UserChange,
                  "Change a user", _USER, refusals=(404, 409, 412, 428), if_match="required"),
            reads("DELETE", "/users/{id}", self.delete_user, models.UserParams,
                  "Mark a user as deleted: it is refused, and can be restored", _USER,
                  refusals=(404, 409, 412, 428), if_match="required"),
            reads("POST", "/users/{id}/restore", self.restore_user, models.UserParams,
                  "Restore a deleted user to active", _USER, refusals=(404, 409, 412), if_match="optional"),
            takes("POST", "/users/{id}/identities", self.link_identity, models.UserParams, models.NewIdentity,
                  "Link an identity to a user", Answer(201, models.User, _TAG),
                  refusals=(404, 409, 412), if_match="optional"),
            reads("DELETE", "/users/{id}/identities", self.unlink_identity, models.IdentityParams,
                  "Unlink an identity from a user", _USER, refusals=(404, 409, 412), if_match="optional"),
        ]  # fmt: skip

    async def search_users(self, _: web.Request, params: models.UserSearch) -> web.Response:
        after = None
        if params.after is not None:
            created, _dot, last = params.after.partition(".")
            after = int(created), last
        try:
            found = await self._directory.search(
                text=params.q,
                status=None if params.status is None else UserStatus(params.status),
                tenant=params.tenant,
                after=after,
                limit=params.limit + 1,
            )
        except UserIdMalformed as error:
            raise invalid(FieldError("after", "This is not `next` of a page")) from error
        page = found[: params.limit]
        cursor = None
        if len(found) > len(page):
            cursor = f"{microseconds(page[-1].created_at)}.{page[-1].user.id}"
        return json(models.UserPage(items=[models.User.of(each, self._names) for each in page], next=cursor))

    async def create_user(
        self, request: web.Request, _: models.NoParams, new: models.NewUser
    ) -> web.Response:
        record = await self._directory.add(
            self._identity(new),
            status=UserStatus(new.status),
            tenant=new.tenant,
            email=new.email,
            display_name=new.display_name,
            roles=new.roles,
            author=author_of(request),
        )
        await self._write_through.user(record)
        return self._answer(
            record, status=201, headers={"Location": f"/v1/users/{quote(record.user.id, safe='')}"}
        )

    async def show_user(self, _: web.Request, params: models.UserParams) -> web.Response:
        return self._answer(await self._directory.get(params.id))

    async def change_user(
        self, request: web.Request, params: models.UserParams, change: models.UserChange
    ) -> web.Response:
        changes: UserChanges = {}
        given = change.model_fields_set
        if "status" in given:
            changes["status"] = UserStatus(change.status)
        if "tenant" in given:
            changes["tenant"] = change.tenant
        if "email" in given:
            changes["email"] = change.email
        if "display_name" in given:
            changes["display_name"] = change.display_name
        if "roles" in given:
            changes["roles"] = tuple(change.roles)
        if "tokens_valid_after" in given:
            after = change.tokens_valid_after
            changes["tokens_valid_after"] = None if after is None else after.timestamp()
        record = await self._directory.change(
            params.id,
            changes,
            expected=self._expected(request, required=True),
            author=author_of(request, change.reason),
        )
        await self._write_through.user(record)
        return self._answer(record)

    async def delete_user(self, request: web.Request, params: models.UserParams) -> web.Response:
        record = await self._directory.delete(
            params.id, expected=self._expected(request, required=True), author=author_of(request)
        )
        await self._write_through.user(record)
        return self._answer(record)

    async def restore_user(self, request: web.Request, params: models.UserParams) -> web.Response:
        record = await self._directory.restore(
            params.id, expected=self._expected(request), author=author_of(request)
        )
        await self._write_through.user(record)
        return self._answer(record)

    async def link_identity(
        self, request: web.Request, params: models.UserParams, new: models.NewIdentity
    ) -> web.Response:
        record = await self._directory.link(
            params.id, self._identity(new), expected=self._expected(request), author=author_of(request)
        )
        await self._write_through.user(record)
        return self._answer(record, status=201)

    async def unlink_identity(self, request: web.Request, params: models.IdentityParams) -> web.Response:
        # The issuer need not be configured any more.
        identity = Identity(self._issuers.get(params.issuer, params.issuer), params.subject)
        record = await self._directory.unlink(
            params.id, identity, expected=self._expected(request), author=author_of(request)
        )
        await self._write_through.user(record, identity)
        return self._answer(record)

    def _identity(self, new: models.NewIdentity) -> Identity:
        name, iss = issuer_called(new.issuer, self._issuers)
        if is_pattern(iss):
            raise invalid(FieldError("issuer", f"This issuer has several tenants: write {name}/<tenant>"))
        return Identity(iss, new.subject)

    def _expected(
        self, request: web.Request, *, required: bool = False
    ) -> Callable[[UserRecord], bool] | None:
        return _expected(request, self._names, required=required)

    def _answer(
        self, record: UserRecord, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        tag = f'"{_etag(record, self._names)}"'
        return json(
            models.User.of(record, self._names), status=status, headers={"ETag": tag, **(headers or {})}
        )


def issuer_called(text: str, issuers: Mapping[str, str]) -> tuple[str, str]:
    """Return the name or realm of an issuer and its `iss`, given by either. Raises `RequestRefused`."""
    found = IssuerNames(issuers).find(text)
    if found is not None:
        return found
    raise invalid(
        FieldError("issuer", f"This issuer is not configured. Configured issuers: {', '.join(issuers)}")
    )


def _etag(record: UserRecord, names: Mapping[str, str]) -> str:
    """Return the strong entity tag of a user in the API."""
    document = models.User.of(record, names).model_dump_json()
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def _expected(
    request: web.Request, names: Mapping[str, str], *, required: bool
) -> Callable[[UserRecord], bool] | None:
    """Return a check whether a user matches If-Match; None if the request has no If-Match.

    Raises `RequestRefused` (RFC 6585 §3) when If-Match is required.
    """
    if "If-Match" not in request.headers:
        if required:
            raise RequestRefused(
                428, "precondition_required", "Send the ETag of the user as you read it in If-Match"
            )
        return None
    # Weak tags never match (RFC 9110 §8.8.3.2).
    wanted = {each.value for each in request.if_match or () if not each.is_weak}
    return lambda record: "*" in wanted or _etag(record, names) in wanted
