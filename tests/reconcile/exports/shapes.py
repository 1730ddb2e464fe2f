# ruff: noqa: E501 -- lines as the providers write them
"""Exports in the shapes that the providers publish, each with two users; what is read from each."""

from dataclasses import dataclass
from typing import Final

ONE: Final = "5b0f4cf1-9f3c-4c46-a7ad-2ef38a4b5e01"
TWO: Final = "5b0f4cf1-9f3c-4c46-a7ad-2ef38a4b5e02"


@dataclass(frozen=True)
class Shape:
    """An export, with what its users are read as: subject, e-mail address, name and status."""

    name: str
    provider: str | None
    text: str
    users: list[tuple[str | None, str | None, str | None, str | None]]
    claim: str = "sub"
    field: str = ""


# auth0.com/docs/manage-users/user-migration/bulk-user-exports
AUTH0: Final = (
    Shape(
        "auth0 ndjson",
        "Auth0",
        '{"user_id":"auth0|1","email":"ann@example.com","name":"Ann","nickname":"ann","blocked":true}\n'
        '{"user_id":"google-oauth2|2","email":"bob@example.com","name":"Bob","nickname":"bob"}\n',
        [("auth0|1", "ann@example.com", "Ann", "suspended"),
         ("google-oauth2|2", "bob@example.com", "Bob", "active")],
        field="user_id",
    ),
    Shape(
        "auth0 csv",
        "Auth0",
        'user_id,email,name,connection\r\nauth0|1,\'+ann@example.com,"Ann, the ""first""",db\r\nauth0|2,,,db\r\n',
        [("auth0|1", "+ann@example.com", 'Ann, the "first"', "active"), ("auth0|2", None, None, "active")],
        field="user_id",
    ),
    Shape(
        "auth0 extension",
        "Auth0",
        '{"Id":"auth0|1","Given Name":"","Nickname":"ann","Name":"Ann","Email":"ann@example.com",'
        '"Email Verified":true,"Connection":"db"}\n',
        [("auth0|1", "ann@example.com", "Ann", "active")],
        field="user_id",
    ),
    Shape(
        "auth0 api pages",
        "Auth0",
        '{"start":0,"limit":1,"users":[{"user_id":"auth0|1","identities":[{"user_id":"1","provider":"auth0"}]}]}'
        '{"start":1,"limit":1,"users":[{"user_id":"auth0|2","identities":[]}],"total":2}',
        [("auth0|1", None, None, "active"), ("auth0|2", None, None, "active")],
        field="user_id",
    ),
)  # fmt: skip

_OKTA = (
    '[{"id":"00u1","status":"ACTIVE","created":"2026-01-01T00:00:00.000Z","type":{"id":"oty1"},"profile":'
    '{"firstName":"Ann","lastName":"One","mobilePhone":null,"login":"ann@corp.example","email":"ann@example.com"},'
    '"credentials":{"provider":{"type":"OKTA","name":"OKTA"}},"_links":{"self":{"href":"https://x/00u1"}}},'
    '{"id":"00u2","status":"DEPROVISIONED","profile":{"firstName":"Bob","lastName":"Two",'
    '"login":"bob@corp.example","email":"bob@example.com"}}]'
)
# developer.okta.com/docs/api/openapi/okta-management/management/tag/User
OKTA: Final = (
    Shape(
        "okta api, uid",
        "Okta",
        _OKTA,
        [("00u1", "ann@example.com", "Ann One", "active"), ("00u2", "bob@example.com", "Bob Two", "suspended")],
        claim="uid",
        field="id",
    ),
    Shape(
        "okta api, sub",
        "Okta",
        _OKTA + _OKTA.replace("00u", "00v"),
        [("ann@corp.example", "ann@example.com", "Ann One", "active"),
         ("bob@corp.example", "bob@example.com", "Bob Two", "suspended")] * 2,
        field="profile.login",
    ),
    Shape(
        "okta csv",
        "Okta",
        '"User Id","Login","First name","Last name","Email","Status"\n'
        '"00u1","ann","Ann","One","ann@example.com","LOCKED_OUT"\n"00u2","bob","Bob","Two","","STAGED"\n',
        [("00u1", "ann@example.com", "Ann One", "locked"), ("00u2", None, "Bob Two", "pending")],
        claim="uid",
        field="id",
    ),
)  # fmt: skip

_KEYCLOAK_USERS = (
    f'[ {{\n    "id" : "{ONE}",\n    "createdTimestamp" : 1767225600000,\n    "username" : "ann",\n'
    '    "enabled" : true,\n    "totp" : false,\n    "emailVerified" : true,\n    "firstName" : "Ann",\n'
    '    "lastName" : "One",\n    "email" : "ann@example.com",\n    "realmRoles" : [ "editor" ],\n'
    '    "groups" : [ "/users" ]\n'
    f'  }}, {{\n    "id" : "{TWO}",\n    "username" : "bob",\n    "enabled" : false,\n    "realmRoles" : [ ]\n  }} ]'
)
_KEYCLOAK_READ: list[tuple[str | None, str | None, str | None, str | None]] = [
    (ONE, "ann@example.com", "Ann One", "active"),
    (TWO, None, None, "suspended"),
]
# keycloak.org/server/importExport, and kcadm.sh get users
KEYCLOAK: Final = (
    Shape("keycloak kcadm", "Keycloak", _KEYCLOAK_USERS + "\n", _KEYCLOAK_READ, field="id"),
    Shape(
        "keycloak realm",
        "Keycloak",
        '{\n  "id" : "r", "realm" : "demo",\n  "roles" : { "realm" : [ { "id" : "x", "name" : "admin" } ] },\n'
        '  "groups" : [ { "id" : "g", "name" : "users" } ],\n  "users" : '
        + _KEYCLOAK_USERS
        + ',\n  "clients" : [ { "id" : "c", "clientId" : "web" } ]\n}\n',
        _KEYCLOAK_READ,
        field="id",
    ),
    Shape(
        "keycloak realm in files",
        "Keycloak",
        '{{"realm": "demo", "users": {}}}\n{{"realm": "demo", "users": {}}}'.format(
            f'[{{"id": "{ONE}", "username": "ann", "enabled": true}}]',
            f'[{{"id": "{TWO}", "username": "bob", "enabled": false}}]',
        ),
        [(ONE, None, None, "active"), (TWO, None, None, "suspended")],
        field="id",
    ),
)  # fmt: skip

# supabase.com/docs/guides/auth/managing-user-data: auth.users, downloaded as CSV from the SQL editor
SUPABASE: Final = (
    Shape(
        "supabase csv",
        "Supabase",
        "instance_id,id,aud,role,email,encrypted_password,raw_app_meta_data,raw_user_meta_data,banned_until,"
        "deleted_at,is_anonymous\n"
        f"0000,{ONE},authenticated,authenticated,ann@example.com,$2a$10,"
        '"{""provider"":""email""}","{""note"":""two\nlines""}",null,,false\n'
        f"0000,{TWO},authenticated,authenticated,bob@example.com,,{{}},{{}},2999-01-01 00:00:00+00,null,false\n",
        [(ONE, "ann@example.com", None, "active"), (TWO, "bob@example.com", None, "suspended")],
        field="id",
    ),
    Shape(
        "supabase api",
        "Supabase",
        f'{{"users":[{{"id":"{ONE}","aud":"authenticated","role":"authenticated","email":"ann@example.com",'
        '"app_metadata":{"provider":"email"},"user_metadata":{"full_name":"Ann"},'
        '"deleted_at":"2026-01-01T00:00:00Z"}],"aud":"authenticated"}',
        [(ONE, "ann@example.com", "Ann", "deleted")],
        field="id",
    ),
)

# learn.microsoft.com/entra/identity/users/users-bulk-download; admin.microsoft.com; Graph
ENTRA: Final = (
    Shape(
        "entra csv",
        "Entra ID",
        "\ufeffuserPrincipalName,displayName,surname,mail,givenName,id,userType,accountEnabled\r\n"
        f"ann@corp.example,Ann One,One,ann@example.com,Ann,{ONE},Member,True\r\n"
        f"bob@corp.example,Bob Two,Two,,Bob,{TWO},Guest,False\r\n",
        [(ONE, "ann@example.com", "Ann One", "active"), (TWO, None, "Bob Two", "suspended")],
        claim="oid",
        field="id",
    ),
    Shape(
        "microsoft 365 csv",
        "Entra ID",
        "Block credential,City,Display name,Object Id,Soft deletion time stamp,User principal name\n"
        f"False,,Ann One,{ONE},,ann@corp.example\nTrue,,Bob Two,{TWO},,bob@corp.example\n",
        [(ONE, None, "Ann One", "active"), (TWO, None, "Bob Two", "suspended")],
        claim="oid",
        field="id",
    ),
    Shape(
        "graph powershell",
        "Entra ID",
        "#TYPE Microsoft.Graph.PowerShell.Models.MicrosoftGraphUser\r\n"
        f'"Id";"DisplayName";"UserPrincipalName";"Mail"\r\n"{ONE}";"Ann One";"ann@corp";"ann@example.com"\r\n',
        [(ONE, "ann@example.com", "Ann One", "active")],
        claim="oid",
        field="id",
    ),
    Shape(
        "graph api",
        "Entra ID",
        '{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#users","@odata.nextLink":"https://x",'
        f'"value":[{{"id":"{ONE}","displayName":"Ann One","userPrincipalName":"ann@corp","mail":null,'
        '"accountEnabled":false}]}',
        [(ONE, None, "Ann One", "suspended")],
        claim="oid",
        field="id",
    ),
)

# firebase.google.com/docs/cli/auth
FIREBASE: Final = (
    Shape(
        "firebase json",
        "Firebase",
        '{"users": [\n{\n  "localId": "u1",\n  "email": "ann@example.com",\n  "emailVerified": true,\n'
        '  "displayName": "Ann",\n  "createdAt": "1767225600000",\n  "providerUserInfo": []\n},\n'
        '{\n  "localId": "u2",\n  "disabled": true,\n  "customAttributes": "{\\"role\\":\\"admin\\"}"\n}]}',
        [("u1", "ann@example.com", "Ann", "active"), ("u2", None, None, "suspended")],
        field="localId",
    ),
    Shape(
        "firebase csv",
        "Firebase",
        "u1,ann@example.com,true,aGFzaA==,c2FsdA==,Ann" + "," * 18 + "1767225600000,1767225600000,,,\n"
        'u2,,false,,,"Two, Bob"' + "," * 18 + '1767225600000,,+49,true,"{""role"":""admin""}"\n',
        [("u1", "ann@example.com", "Ann", "active"), ("u2", None, "Two, Bob", "suspended")],
        field="localId",
    ),
)

# docs.aws.amazon.com/cli/latest/reference/cognito-idp/list-users.html
COGNITO: Final = (
    Shape(
        "cognito list-users",
        "Cognito",
        '{\n    "Users": [\n        {\n            "Username": "ann",\n            "Attributes": [\n'
        f'                {{"Name": "sub", "Value": "{ONE}"}},\n'
        '                {"Name": "email", "Value": "ann@example.com"}\n            ],\n'
        '            "UserCreateDate": 1767225600.0,\n            "Enabled": true,\n'
        '            "UserStatus": "FORCE_CHANGE_PASSWORD"\n        },\n'
        f'        {{"Username": "bob", "Attributes": [{{"Name": "sub", "Value": "{TWO}"}}], "Enabled": false,'
        '"UserStatus": "CONFIRMED"}\n    ],\n    "PaginationToken": "x"\n}\n',
        [(ONE, "ann@example.com", None, "active"), (TWO, None, None, "suspended")],
        field="sub",
    ),
    Shape(
        "cognito csv",
        "Cognito",
        "cognito:username,name,email,email_verified,sub,UserStatus\n"
        f"ann,Ann,ann@example.com,true,{ONE},UNCONFIRMED\n",
        [(ONE, "ann@example.com", "Ann", "pending")],
        field="sub",
    ),
)

# support.google.com/a/answer/7348070, and users.list of the Directory API
GOOGLE: Final = (
    Shape(
        "google api",
        "Google Workspace",
        '{"kind":"admin#directory#users","users":[{"id":"113976","primaryEmail":"ann@example.com","name":'
        '{"fullName":"Ann One"},"suspended":false},{"id":"113977","primaryEmail":"bob@example.com",'
        '"suspended":true}]}',
        [("113976", "ann@example.com", "Ann One", "active"), ("113977", "bob@example.com", None, "suspended")],
        field="id",
    ),
    Shape(
        "google admin console",
        "Google Workspace",
        "First Name [Required],Last Name [Required],Email Address [Required],Password [Required],"
        "Org Unit Path [Required],Status [READ ONLY],Last Sign In [READ ONLY]\r\n"
        "Ann,One,ann@example.com,****,/,Active,Never logged in\r\nBob,Two,bob@example.com,****,/,Suspended,x\r\n",
        [("ann@example.com", "ann@example.com", "Ann One", "active"),
         ("bob@example.com", "bob@example.com", "Bob Two", "suspended")],
        claim="email",
        field="primaryEmail",
    ),
)  # fmt: skip

OTHERS: Final = (
    Shape("strings", None, '["ann", 7]', [("ann", None, None, "active"), ("7", None, None, "active")],
          field="sub"),
    Shape("excel", None, "sep=;\r\nE-Mail;sub;;\r\na@x;ann;;;\r\n;;;\r\n", [("ann", "a@x", None, "active")],
          field="sub"),
    Shape("plain", None, "user_id|active\nann|true\nbob|false\ntom|\n",
          [("ann", None, None, "active"), ("bob", None, None, "suspended"), ("tom", None, None, "active")],
          field="user_id"),
    Shape("unknown word", None, '{"sub":"ann","status":"on holiday"}', [("ann", None, None, None)], field="sub"),
    Shape("slurped pages", None, '[[{"sub": "ann"}], [], [{"sub": "bob"}]]',
          [("ann", None, None, "active"), ("bob", None, None, "active")], field="sub"),
    Shape("nothing", None, '{"users": []}', [], field="sub"),
)  # fmt: skip

SHAPES: Final = (*AUTH0, *OKTA, *KEYCLOAK, *SUPABASE, *ENTRA, *FIREBASE, *COGNITO, *GOOGLE, *OTHERS)
