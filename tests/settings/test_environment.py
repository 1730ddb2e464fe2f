"""Values from the environment: references in the file, files with values, names that are nearly right."""

from pathlib import Path

import pytest

from gateway.settings.advice import advice
from gateway.settings.reading.environment import files_named
from gateway.settings.reading.loading import ConfigurationError, load, load_with_source

BASE = """\
issuers:
  - name: main
    issuer: https://idp.example.com/
    audiences: [api]
postgres:
  dsn: {dsn}
redis:
  url: redis://127.0.0.1:6379/0
upstreams:
  orders: {{urls: ["http://127.0.0.1:9000"]}}
routes:
  - {{name: orders, match: {{path: /**}}, upstream: orders}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, "postgresql://u@db/x")


def write(folder: Path, dsn: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(BASE.format(dsn=dsn), encoding="utf-8")
    return file


def mistakes(file: Path, env: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(file, env)
    return str(caught.value)


class TestReferences:
    def test_a_variable_stands_in_a_text(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://u:${PASSWORD}@${HOST}/x")
        settings = load(file, {"PASSWORD": "a%23b", "HOST": "db"})
        assert settings.postgres.dsn.get_secret_value() == "postgresql://u:a%23b@db/x"

    def test_a_literal_is_written_with_two_dollars(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://u:$${HOST}$@db/x")
        assert load(file, {}).postgres.dsn.get_secret_value() == "postgresql://u:${HOST}$@db/x"

    def test_numbers_and_durations_may_be_references(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://u@db/x\n  pool_max: ${MAX}\n  connect_timeout: ${TIME}")
        settings = load(file, {"MAX": "7", "TIME": "3s"})
        assert (settings.postgres.pool_max, settings.postgres.connect_timeout) == (7, 3.0)

    @pytest.mark.parametrize(
        ("dsn", "expected"),
        [
            (
                "postgresql://${NOBODY}@db/x",
                "6: postgres.dsn: names ${NOBODY}, which the environment does not",
            ),
            ("postgresql://${}@db/x", "6: postgres.dsn: has ${ without the name of a variable"),
            (
                "postgresql://${USER:-hunter2}@db/x",
                "6: postgres.dsn: has ${USER with a default, as shells know it → write ${USER}, and set USER",
            ),
            ("postgresql://${A-B}@db/x", "6: postgres.dsn: has ${ without the name of a variable"),
        ],
    )
    def test_a_reference_to_nothing_is_a_mistake(self, tmp_path: Path, dsn: str, expected: str) -> None:
        assert expected in mistakes(write(tmp_path, dsn), {})

    @pytest.mark.parametrize("audience", ["${NOBODY}", "${AUD:-api}", "${${AUD}}", "${1A}"])
    def test_a_reference_to_nothing_is_one_mistake(self, tmp_path: Path, audience: str) -> None:
        """What is around it, or its variables' values, is not what will be there."""
        file = write(tmp_path, "postgresql://u@db/x")
        file.write_text(file.read_text().replace("audiences: [api]", f'audiences: ["{audience}"]'))
        with pytest.raises(ConfigurationError) as caught:
            load(file, {"AUD": "hunter2"})
        assert [problem.field for problem in caught.value.problems] == ["issuers[0].audiences[0]"]
        assert "hunter2" not in str(caught.value)

    def test_a_value_is_not_read_as_a_reference(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://${USER}@db/x")
        dsn = load(file, {"USER": "${OTHER}", "OTHER": "x"}).postgres.dsn.get_secret_value()
        assert dsn == "postgresql://${OTHER}@db/x"


class TestFiles:
    @pytest.mark.parametrize("written", [b"%b", b"%b\n", b"%b\r\n", b"\xef\xbb\xbf%b"])
    def test_a_file_has_the_value(self, tmp_path: Path, file: Path, written: bytes) -> None:
        secret = tmp_path / "dsn"
        secret.write_bytes(written % b"postgresql://u:secret@db/y")
        settings = load(file, {"GATEWAY_POSTGRES__DSN_FILE": str(secret)})
        assert settings.postgres.dsn.get_secret_value() == "postgresql://u:secret@db/y"

    def test_files_are_named_without_being_read(self, tmp_path: Path) -> None:
        """One may be a pipe, which can be read once."""
        env = {
            "GATEWAY_POSTGRES__DSN_FILE": str(tmp_path / "dsn"),
            "GATEWAY_REDIS__URL": "redis://127.0.0.1:1",
            "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
            "GATEWAY_TEST_FILE": "x",
        }
        assert files_named(env) == [tmp_path / "dsn"]

    def test_a_file_that_is_not_there_is_a_mistake(self, tmp_path: Path, file: Path) -> None:
        found = mistakes(file, {"GATEWAY_ADMIN__TOKEN_FILE": str(tmp_path / "none")})
        assert "GATEWAY_ADMIN__TOKEN_FILE: admin.token: is in" in found
        assert "cannot be read: No such file or directory" in found

    def test_a_variable_that_names_no_file_is_a_mistake(self, file: Path) -> None:
        found = mistakes(file, {"GATEWAY_ADMIN__TOKEN_FILE": ""})
        assert "admin.token: is in a file, which the variable does not name" in found

    def test_both_are_a_mistake(self, tmp_path: Path, file: Path) -> None:
        secret = tmp_path / "url"
        secret.write_text("redis://127.0.0.1:1", encoding="utf-8")
        env = {"GATEWAY_REDIS__URL_FILE": str(secret), "GATEWAY_REDIS__URL": "redis://127.0.0.1:2"}
        assert "is set by GATEWAY_REDIS__URL too" in mistakes(file, env)

    def test_a_mistake_in_the_file_is_reported_without_its_content(self, tmp_path: Path, file: Path) -> None:
        secret = tmp_path / "token"
        secret.write_text("hunter2", encoding="utf-8")
        found = mistakes(file, {"GATEWAY_ADMIN__TOKEN_FILE": str(secret)})
        assert "GATEWAY_ADMIN__TOKEN_FILE: admin.token: must have at least 16 characters" in found
        assert "hunter2" not in found


class TestNames:
    @pytest.mark.parametrize(
        ("variable", "expected"),
        [
            ("GATEWAY_SERVER_LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("GATEWAY_POSTGRES_DSN", "GATEWAY_POSTGRES__DSN"),
            ("GATEWAY_POSTGRES_DSN_FILE", "GATEWAY_POSTGRES__DSN_FILE"),
            ("GATEWAY_ASSERTION_KEY_FILE", "GATEWAY_ASSERTION__KEY_FILE"),
            ("GATEWAY_CONFIG_FILE", "GATEWAY_CONFIG"),
            ("GATEWAY_CONFG", "GATEWAY_CONFIG"),
            ("GATEWAY__SERVER__LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("GATEWAY_SERVER__TLS_CERTIFICATE", "GATEWAY_SERVER__TLS__CERTIFICATE"),
            ("GATEWAY_SERVERS__LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("GATEWAY.SERVER.LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("GATEWAY-SERVER-LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("gateway_server__listen", "GATEWAY_SERVER__LISTEN"),
            ("Gateway_Postgres__Dsn_File", "GATEWAY_POSTGRES__DSN_FILE"),
            ("GATEWY_SERVER__LISTEN", "GATEWAY_SERVER__LISTEN"),
            ("GATEWAY_SERVER_TLS_CERTIFICATE", "GATEWAY_SERVER__TLS__CERTIFICATE"),
            ("GATEWAY_SERVER_TRUSTED_PROXYS", "GATEWAY_SERVER__TRUSTED_PROXIES"),
            ("GATEWAY_LOG__LEVLE", "GATEWAY_LOG__LEVEL"),
        ],
    )
    def test_nearly_right_is_a_mistake(self, file: Path, variable: str, expected: str) -> None:
        found = mistakes(file, {variable: "x"})
        assert variable in found
        assert f"did you mean {expected}?" in found

    @pytest.mark.parametrize(
        "variable",
        [
            "GATEWAY_SERVICE_HOST",
            "GATEWAY_SERVICE_PORT",
            "GATEWAY_SERVICE_PORT_HTTP",
            "GATEWAY_PORT",
            "GATEWAY_PORT_8080_TCP",
            "GATEWAY_PORT_8080_TCP_ADDR",
            "GATEWAY_CONFIG_SERVICE_HOST",
            "GATEWAY_ADMIN_PORT",
            "GATEWAY_DECISION_SERVICE_PORT_GRPC",
            "GATE_KEEPER",
            "GATEWAY_VERSION",
            "GATEWAY_IMAGE_TAG",
            "GATEWAY_TEST_POSTGRES_DSN",
        ],
    )
    def test_variables_of_others_are_ignored(self, file: Path, variable: str) -> None:
        load(file, {variable: "x"})


class TestExposure:
    def told(self, file: Path, env: dict[str, str] | None = None) -> dict[str, str]:
        return {each.field: str(each) for each in advice(*load_with_source(file, env or {}))}

    def test_an_admin_port_on_the_network_needs_a_token(self, file: Path) -> None:
        told = self.told(file, {"GATEWAY_ADMIN__LISTEN": "0.0.0.0:9901"})
        assert "is not loopback, and there is no admin.token" in told["admin.listen"]
        env = {"GATEWAY_ADMIN__LISTEN": "0.0.0.0:9901", "GATEWAY_ADMIN__TOKEN": "t" * 32}
        assert "admin.listen" not in self.told(file, env)
        for loopback in ("127.0.0.1:9901", "[::1]:9901", "localhost:9901", "unix:/run/admin.sock"):
            assert "admin.listen" not in self.told(file, {"GATEWAY_ADMIN__LISTEN": loopback})

    @pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
    def test_to_trust_every_client_is_warned_of(self, file: Path, network: str) -> None:
        told = self.told(file, {"GATEWAY_SERVER__TRUSTED_PROXIES": f'["10.0.0.0/8", "{network}"]'})
        assert "trusts every client" in told["server.trusted_proxies[1]"]

    def test_halves_of_all_addresses_are_all_of_them(self, file: Path) -> None:
        told = self.told(file, {"GATEWAY_SERVER__TRUSTED_PROXIES": '["0.0.0.0/1", "::1/128", "128.0.0.0/1"]'})
        assert "together trust every client" in told["server.trusted_proxies"]

    def test_a_secret_that_all_can_read_is_warned_of(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://u:secret@db/x")
        file.chmod(0o644)
        told = self.told(file)
        assert "is a secret in a file that all users of this machine can read" in told["postgres.dsn"]
        assert "secret@" not in told["postgres.dsn"]
        assert "GATEWAY_POSTGRES__DSN_FILE" in told["postgres.dsn"]
        file.chmod(0o640)
        assert "postgres.dsn" not in self.told(file)

    @pytest.mark.parametrize(
        ("written", "place", "fix"),
        [
            ("  listen_dsn: postgresql://u@db/x?password=secret", "postgres.listen_dsn", "_LISTEN_DSN_FILE"),
            ("jwks: {proxy: 'http://u:secret@proxy:3128'}", "jwks.proxy", "GATEWAY_JWKS__PROXY"),
            ("redis: {url: 'redis://db?password=secret'}", "redis.url", "GATEWAY_REDIS__URL_FILE"),
        ],
    )
    def test_every_secret_is(self, tmp_path: Path, written: str, place: str, fix: str) -> None:
        file = write(tmp_path, "postgresql://u@db/x\n" + written)
        if written.startswith("redis"):
            file.write_text(file.read_text().replace("redis:\n  url: redis://127.0.0.1:6379/0\n", ""))
        file.chmod(0o644)
        assert fix in self.told(file)[place]

    def test_a_secret_within_a_list_is_too(self, file: Path) -> None:
        secret = "s" * 32
        file.write_text(file.read_text().replace("[api]", f"[api]\n    keys: {{secret: {secret}}}"))
        file.chmod(0o644)
        told = self.told(file)["issuers[0].keys.secret"]
        assert "or write ${NAME}, and set NAME" in told
        assert secret not in told

    def test_a_private_key_that_all_can_read_is_warned_of(self, tmp_path: Path, file: Path) -> None:
        key = tmp_path / "key.pem"
        key.write_text("")
        key.chmod(0o644)
        file.write_text(f"server: {{tls: {{certificate: {key}, key: {key}}}}}\n{file.read_text()}")
        place = "server.tls.key"
        assert f"can be read by all users of this machine → chmod o-r {key}" in self.told(file)[place]
        key.chmod(0o640)
        assert place not in self.told(file)

    def test_a_file_that_cannot_be_looked_for_is_not_there(self, file: Path) -> None:
        """As one in a folder that may not be searched, which the tests' user often may."""
        name = "k" * 300
        file.write_text(f"server: {{tls: {{certificate: {name}, key: {name}}}}}\n{file.read_text()}")
        assert "which is not a file" in self.told(file)["server.tls.key"]

    def test_a_reference_is_no_secret(self, tmp_path: Path) -> None:
        file = write(tmp_path, "postgresql://u:${PASSWORD}@db/x")
        file.chmod(0o644)
        assert "postgres.dsn" not in self.told(file, {"PASSWORD": "secret"})
        file = write(tmp_path, "postgresql://u@db/x")
        assert "postgres.dsn" not in self.told(file, {"GATEWAY_POSTGRES__DSN": "postgresql://u:secret@db/x"})
