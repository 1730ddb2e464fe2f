"""What `gateway init` needs to know: from options and the environment, or asked for and tried at once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urlsplit

from gateway.cli.check import live
from gateway.cli.check.result import CheckResult
from gateway.cli.init import issuer as issuers
from gateway.cli.init.document import ADMIN_TOKEN, POSTGRES, REDIS, Answers, configuration, settings_of
from gateway.cli.init.issuer import SECRET, FoundIssuer, NoIssuer
from gateway.cli.init.trial import TRIALS
from gateway.cli.terminal import output
from gateway.cli.terminal.arguments import LONGEST_LINE

if TYPE_CHECKING:
    from gateway.settings import Settings

_DEFAULT_REDIS: Final = "redis://127.0.0.1:6379/0"
_STAND_IN: Final = FoundIssuer(
    {"name": "main", "issuer": "https://issuer.invalid", "audiences": ["api"], "keys": {"discovery": True}}
)
"""For what is not known yet, while another part is tried."""
_OPTIONS: Final = {
    "server.listen": "--listen",
    "admin.listen": "--admin-listen",
    "issuers[0].name": "--name",
    "admin.token": f"{ADMIN_TOKEN} in the file for the secrets",
}
"""What is not asked for, by the setting that it becomes."""


class Prompts(Protocol):
    """A person who answers."""

    def text(self, question: str, default: str | None = None) -> str:
        """Ask for a text, which is shown while it is typed."""

    def secret(self, question: str) -> str:
        """Ask for a text that is not shown; it may be empty."""

    def yes(self, question: str, *, default: bool) -> bool:
        """Ask a question."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line and the environment say. None: they do not."""

    issuer: str | None = None
    token: str | None = None
    """The text of a sample token."""
    audiences: tuple[str, ...] = ()
    client_ids: tuple[str, ...] = ()
    name: str = "main"
    upstream: str | None = None
    postgres: str | None = None
    redis: str | None = None
    token_secret: str | None = None
    listen: str = "0.0.0.0:8080"
    admin_listen: str = "127.0.0.1:9901"

    @property
    def missing(self) -> list[str]:
        """The options without which a program cannot be answered."""
        options = {
            "--issuer or --token": self.issuer or self.token,
            "--upstream": self.upstream,
            f"--postgres, or the variable {POSTGRES}": self.postgres,
        }
        return [option for option, value in options.items() if value is None]


@dataclass(slots=True)
class Interview:
    """Collects the answers. `prompts` None: what is missing or wrong ends the command."""

    given: Given
    env_file: Path
    secrets: dict[str, str]
    """By the name of the variable. What is asked for is added."""
    prompts: Prompts | None = None
    tries: bool = True
    """Whether each dependency is tried."""
    tell: Callable[[CheckResult], None] = lambda _: None
    found: FoundIssuer = _STAND_IN
    upstream: str = "http://127.0.0.1:1"
    results: list[CheckResult] = field(default_factory=list)

    def hold(self) -> None:
        """Ask for everything, one thing after the other. Exits when it cannot go on."""
        if self.prompts is None and (missing := self.given.missing):
            output.fail("init lacks " + "; ".join(missing), "gateway init --help", output.USAGE)
        self.secrets.setdefault(POSTGRES, "postgresql://gateway@127.0.0.1:1/gateway")
        self.secrets.setdefault(REDIS, "redis://127.0.0.1:1/0")
        self._refuse_options()
        self._issuer()
        self._value(
            "upstream", "URL of the service behind the gateway", self.given.upstream, self._put_upstream
        )
        self._value(
            "postgres",
            "Postgres, as postgresql://USER@HOST/DATABASE",
            self.given.postgres,
            self._put_postgres,
        )
        self._value("redis", "Redis", self.given.redis, self._put_redis, _DEFAULT_REDIS)

    @property
    def content(self) -> str:
        """The configuration, as far as it is known."""
        given = self.given
        answers = Answers(
            self.found.entry, self.upstream, given.listen, given.admin_listen, self.found.provider
        )
        return configuration(answers, self.env_file)

    @property
    def settings(self) -> "Settings":
        """The settings as far as they are known. Raises ConfigurationError."""
        return settings_of(self.content, self.secrets)

    def _refuse_options(self) -> None:
        """Exit when an option is wrong that is not asked for: no answer would correct it."""
        from gateway.settings import ConfigurationError

        self.found = issuers.named(_STAND_IN, self.given.name)
        try:
            _ = self.settings
        except ConfigurationError as error:
            problem = error.problems[0]
            told = f"{_OPTIONS.get(problem.field, problem.field)}: {problem.message}"
            output.fail(output.plain(told), problem.hint, output.USAGE)

    # The issuer --------------------------------------------------------------------------------------

    def _issuer(self) -> None:
        given: Given | None = self.given
        while True:
            try:
                self.found = issuers.named(self._found(given), self.given.name)
                self._share_secret(None if given is None else given.token_secret)
            except NoIssuer as error:
                self._refuse(str(error), error.hint)
            else:
                if self._works("issuer"):
                    return
            given = None

    def _found(self, given: Given | None) -> FoundIssuer:
        prompts = self.prompts
        if given is not None and given.token is not None:
            return issuers.from_token(given.token)
        if given is not None and given.issuer is not None:
            return self._by_url(given.issuer, given.audiences, given.client_ids)
        if prompts is None:
            raise NoIssuer("no issuer is given", "give --issuer URL or --token FILE")
        url = prompts.text("URL of the issuer (`iss` of its tokens), or nothing to paste a token", "").strip()
        if url.startswith(("eyJ", "Bearer ")):
            return issuers.from_token(url)
        if not url:
            token = prompts.secret("A sample token (not shown, and not sent anywhere)")
            if len(token) >= LONGEST_LINE:
                raise NoIssuer("the terminal cut the token off", "put it into a file: --token FILE")
            return issuers.from_token(token)
        return self._by_url(url, self.given.audiences, self.given.client_ids)

    def _by_url(self, url: str, audiences: Iterable[str], client_ids: Iterable[str]) -> FoundIssuer:
        audiences, client_ids = tuple(audiences), tuple(client_ids)
        try:
            return issuers.from_url(url, audiences, client_ids)
        except NoIssuer:
            if self.prompts is None or audiences:
                raise
        named = self.prompts.text("Audience of its tokens (`aud`)").strip()
        return issuers.from_url(url, (named,), client_ids)

    def _share_secret(self, secret: str | None) -> None:
        """Keep the secret of the issuer, if it has one. Raises NoIssuer without it."""
        if not self.found.shares_a_secret:
            self.secrets.pop(SECRET, None)
            return
        if secret is None and self.prompts is not None:
            secret = self.prompts.secret("The secret that the issuer signs with (not shown)")
        if not secret:
            raise NoIssuer(
                "the token is signed with a secret (HS256)",
                f"put it into the variable {SECRET}, and run this again",
            )
        self.secrets[SECRET] = secret

    # One value after the other -------------------------------------------------------------------------

    def _value(
        self,
        name: str,
        question: str,
        given: str | None,
        put: Callable[[str], None],
        default: str | None = None,
    ) -> None:
        text = given
        while True:
            if text is None:
                if self.prompts is None:
                    text = default or ""
                else:
                    text = self._with_password(name, self.prompts.text(question, default).strip())
            put(text)
            if self._works(name):
                return
            text = None

    def _with_password(self, name: str, url: str) -> str:
        """Ask for the password of a store, if the URL has none: it should not stand on the screen."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return url  # no URL, which is told when it is tried
        if name == "upstream" or self.prompts is None or not parts.netloc or parts.password is not None:
            return url
        password = self.prompts.secret("Its password (not shown; nothing if it needs none)")
        if not password:
            return url
        user, _, place = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()

    def _put_upstream(self, text: str) -> None:
        self.upstream = text

    def _put_postgres(self, text: str) -> None:
        self.secrets[POSTGRES] = text

    def _put_redis(self, text: str) -> None:
        self.secrets[REDIS] = text

    def _works(self, name: str) -> bool:
        """Try what is known by now; return whether to go on with it."""
        from gateway.settings import ConfigurationError

        try:
            settings = self.settings
        except ConfigurationError as error:
            for problem in error.problems:
                self._refuse(f"{problem.field}: {problem.message}", problem.hint)
            return False
        if not self.tries:
            return True
        result = TRIALS[name](settings)
        self.tell(result)
        good = result.outcome == "pass" or (name == "redis" and result.outcome == "warn")
        if good or self.prompts is None or self.prompts.yes("Use it all the same?", default=False):
            self.results.append(result)
            return True
        return False

    def _refuse(self, message: str, hint: str | None) -> None:
        """Tell a person what is wrong; end the command if there is none."""
        if self.prompts is None:
            output.fail(output.plain(message), hint, output.USAGE)
        output.warn(output.plain(message), hint)


def judged(results: Iterable[CheckResult]) -> int:
    """Return the exit code: `OK` if nothing failed."""
    return live.exit_code(results)
