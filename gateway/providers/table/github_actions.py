"""GitHub Actions: the tokens of workflow runs."""

import re
from typing import Final

from gateway.providers.provider import (
    Example,
    Given,
    IssuerSettings,
    Kind,
    Parameter,
    Provider,
    Recognition,
    Unverified,
    expected,
)

_ISSUER: Final = re.compile(
    r"https://token\.actions\.githubusercontent\.com(?:/[A-Za-z0-9-]+)?|https://\S+/_services/token"
)


def _settings(given: Given) -> IssuerSettings:
    return {
        "issuer": "https://token.actions.githubusercontent.com",
        "audiences": given.get("audiences"),
        "algorithms": ["RS256"],
        "expect": expected(
            repository=given.get("repositories"),
            repository_owner_id=given.get("owner_ids"),
            ref=given.get("refs"),
            environment=given.get("environments"),
        ),
        "require": ["exp", "iat", "nbf", "sub", "jti", "repository_id", "repository_owner_id"],
        "max_lifetime": "1h",
        "keys": {"discovery": True},
    }


def _recognise(token: Unverified) -> Recognition | None:
    issuer = token.text("iss") or ""
    if _ISSUER.fullmatch(issuer) is None:
        return None
    parameters: IssuerSettings = {"audiences": [*token.audiences]}
    if issuer != "https://token.actions.githubusercontent.com":
        parameters["issuer"] = issuer
    for name, claim in (("repositories", "repository"), ("owner_ids", "repository_owner_id")):
        if (value := token.text(claim)) is not None:
            parameters[name] = [value]
    notes = [
        "A workflow run got this token: `sub` names a repository and its branch or environment, not a user."
    ]
    if any(each.startswith("https://github.com/") for each in token.audiences):
        notes.append("`aud` is the one that GitHub gives by itself: ask for one that names your API.")
    return Recognition(parameters, Kind.WORKLOAD, tuple(notes))


GITHUB_ACTIONS: Final = Provider(
    name="github-actions",
    title="GitHub Actions",
    parameters=(
        Parameter(
            "repositories",
            "The repositories whose workflows are accepted.",
            "octo-org/octo-repo",
            "owner/name, without wildcards",
            r"[A-Za-z0-9_-]+/[A-Za-z0-9._-]+",
            many=True,
        ),
        Parameter(
            "owner_ids",
            "The numbers of accounts, all of whose repositories are accepted; with `repositories`, both must"
            " hold.",
            "65",
            "a number, in quotes",
            r"[0-9]+",
            many=True,
        ),
        Parameter(
            "refs",
            "The branches and tags whose workflows are accepted.",
            "refs/heads/main",
            "a whole ref, as refs/heads/main, without wildcards",
            r"refs/(?:heads|tags|pull)/[^\s*]+",
            many=True,
        ),
        Parameter(
            "environments",
            "The deployment environments whose jobs are accepted.",
            "production",
            "the name of an environment, without wildcards",
            r"[^\s*](?:[^\x00-\x1f\x7f*]*[^\s*])?",
            many=True,
        ),
    ),
    needs=(("audiences",), ("repositories", "owner_ids")),
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example(
            "Deployments of one repository",
            {
                "audiences": ["https://deploy.example.com"],
                "repositories": ["octo-org/octo-repo"],
                "owner_ids": ["65"],
                "environments": ["production"],
            },
        ),
        Example(
            "Every repository of an organisation",
            {"audiences": ["https://deploy.example.com"], "owner_ids": ["65"]},
        ),
    ),
    quirks=(
        "All of GitHub has one issuer: without `repositories` or `owner_ids`, each repository of the world"
        " would be accepted. The preset asks for one of them.",
        "A name can be given up and taken by another account. The numbers `repository_owner_id` and"
        " `repository_id` do not change hands: give `owner_ids` beside `repositories`.",
        "`aud` is the address of the repository's owner, unless the workflow asks for another:"
        " `core.getIDToken('https://deploy.example.com')`.",
        "`sub` names the environment or the branch, as `repo:octo-org/octo-repo:environment:production`."
        " Link an identity for each one, or write `subject: repository_id`.",
        "`pull_request_target` runs with the rights of the base branch. `refs` alone does not tell it from a"
        " push: prefer `environments` with required reviewers.",
        "GitHub Enterprise Server has its own issuer: write `issuer: https://HOST/_services/token`.",
    ),
    console=(
        "In the workflow: `permissions: {id-token: write}`.",
        "An owner's number: `gh api orgs/octo-org --jq .id`.",
        "Environments: the repository › *Settings* › *Environments*.",
    ),
    open_to="every repository of the world",
    prefixes={
        "ghp_": (Kind.API_KEY, "a personal access token of GitHub"),
        "github_pat_": (Kind.API_KEY, "a fine-grained personal access token of GitHub"),
        "gho_": (Kind.ACCESS, "an OAuth access token of GitHub"),
        "ghu_": (Kind.ACCESS, "a user's access token of a GitHub App"),
        "ghs_": (Kind.ACCESS, "an installation's access token of a GitHub App, as GITHUB_TOKEN"),
        "ghr_": (Kind.REFRESH, "a refresh token of a GitHub App"),
    },
)
