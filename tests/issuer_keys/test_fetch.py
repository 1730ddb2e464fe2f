import asyncio
import datetime
import ipaddress
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import translation
from gateway.issuer_keys.fetch import MAX_BYTES, Fetcher, FetchError, NotFound, forbidden_address, max_age
from gateway.issuer_keys.sources import Discovery
from gateway.settings.sections.model import Jwks
from tests.issuer_keys.issuer import Answer, IssuerServer, public_jwk, serving


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with serving() as issuer:
        yield issuer


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher() as fetcher:
        yield fetcher


class Resolver(AbstractResolver):
    """A name service that sends every name to the given addresses, in turn."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 -- aiohttp's signature
    ) -> list[ResolveResult]:
        if not self.addresses:
            raise OSError("no such name")
        address = self.addresses.pop(0)
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=socket.IPPROTO_TCP, flags=0
            )
        ]

    async def close(self) -> None:
        pass


async def test_a_document_arrives_with_its_freshness(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.answers["/doc"] = Answer(b'{"a": [1]}', headers={"Cache-Control": "public, max-age=120"})
    document = await fetcher.get(f"{issuer.url}/doc")
    assert (document.content, document.max_age) == ({"a": [1]}, 120.0)


async def test_a_missing_document_is_distinguished_from_other_failures(
    fetcher: Fetcher, issuer: IssuerServer
) -> None:
    issuer.answers["/broken"] = Answer(b"{}", 500)
    with pytest.raises(NotFound, match=r"/nowhere: answered 404"):
        await fetcher.get(f"{issuer.url}/nowhere")
    with pytest.raises(FetchError, match=r"/broken: answered 500") as caught:
        await fetcher.get(f"{issuer.url}/broken")
    assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(fetcher: Fetcher, issuer: IssuerServer, status: int) -> None:
    issuer.answers["/old"] = Answer(b"", status, {"Location": f"{issuer.url}/jwks"})
    with pytest.raises(FetchError, match=f"answered {status}; redirects"):
        await fetcher.get(f"{issuer.url}/old")
    assert issuer.requests["/jwks"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"keys": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"\xff",
        b'{"keys": []',
    ],
    ids=["empty", "html", "deep", "not utf-8", "cut off"],
)
async def test_a_response_that_is_not_json_is_refused(
    fetcher: Fetcher, issuer: IssuerServer, body: bytes
) -> None:
    issuer.answers["/jwks"] = Answer(body)
    with pytest.raises(FetchError, match=r"/jwks: not usable JSON"):
        await fetcher.get(f"{issuer.url}/jwks")


async def test_the_size_is_capped_at_the_byte(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.answers["/full"] = Answer(b'"' + b"x" * (MAX_BYTES - 2) + b'"')
    issuer.answers["/over"] = Answer(b'"' + b"x" * (MAX_BYTES - 1) + b'"')
    assert (await fetcher.get(f"{issuer.url}/full")).content == "x" * (MAX_BYTES - 2)
    with pytest.raises(FetchError, match="larger than 512 KiB"):
        await fetcher.get(f"{issuer.url}/over")


async def test_a_compressed_bomb_is_not_unpacked(fetcher: Fetcher, issuer: IssuerServer) -> None:
    bomb = zlib.compress(b'"' + b"x" * 50_000_000 + b'"')
    issuer.answers["/bomb"] = Answer(bomb, headers={"Content-Encoding": "deflate"})
    with pytest.raises(FetchError, match="compressed"):
        await fetcher.get(f"{issuer.url}/bomb")


async def test_a_slow_answer_is_given_up(issuer: IssuerServer) -> None:
    issuer.answers["/slow"] = Answer(b"{}", hangs=True)
    async with Fetcher(timeout=0.1) as fetcher:
        with pytest.raises(FetchError, match=r"/slow: no complete answer within 0\.1 s"):
            await fetcher.get(f"{issuer.url}/slow")


async def test_a_refused_connection_says_so(fetcher: Fetcher, unused_tcp_port: int) -> None:
    with pytest.raises(
        FetchError, match=f"http://127.0.0.1:{unused_tcp_port}/: cannot connect: Connection refused"
    ):
        await fetcher.get(f"http://127.0.0.1:{unused_tcp_port}/")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"220 mail ready\r\n\r\n", "no valid HTTP answer"),
        (b"", "the connection ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "the connection ended"),
    ],
    ids=["smtp", "nothing", "cut off"],
)
async def test_an_incomplete_response_is_refused(fetcher: Fetcher, answer: bytes, why: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchError, match=f"http://127.0.0.1:{port}/: {why}"):
            await fetcher.get(f"http://127.0.0.1:{port}/")


async def test_a_name_that_does_not_resolve_says_so() -> None:
    async with Fetcher(resolver=Resolver()) as fetcher:
        with pytest.raises(FetchError, match=r"/jwks: its host name cannot be resolved"):
            await fetcher.get("http://idp.example.com/jwks")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://idp.example.com/jwks", "/jwks", "", "http://", "data:,{}", "http://[::"],
)
async def test_only_http_urls_are_fetched(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(FetchError, match=r"only http and https|cannot be parsed"):
        await fetcher.get(url)


async def test_a_password_in_a_url_is_not_shown(fetcher: Fetcher, issuer: IssuerServer) -> None:
    with pytest.raises(FetchError) as caught:
        await fetcher.get(issuer.url.replace("//", "//me:hush@") + "/nowhere")
    assert "hush" not in str(caught.value)
    assert "me" not in str(caught.value)


async def test_no_proxy_and_no_cookie(
    fetcher: Fetcher, issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    issuer.answers["/doc"] = Answer(b"{}", headers={"Set-Cookie": "a=b; Path=/"})
    url = issuer.url.replace("127.0.0.1", "localhost")
    async with Fetcher(resolver=Resolver("127.0.0.1", "127.0.0.1")) as named:
        await named.get(f"{url}/doc")
        await named.get(f"{url}/doc")
    assert ["Cookie" in request.headers for request in issuer.seen] == [False, False]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%1", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),  # noqa: S104 -- refused, not bound
        ("::", "unspecified"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("64:ff9b::169.254.169.254", "link-local"),  # by a NAT64, RFC 6052
        ("2002:a9fe:a9fe::1", "link-local"),  # 6to4, RFC 3056
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("::ffff:100.100.100.200", "metadata"),
        ("127.0.0.1", None),
        ("::1", None),
        ("10.1.2.3", None),
        ("64:ff9b::10.1.2.3", None),
        ("fd00:ec2::253", None),
        ("100.100.100.201", None),
        ("192.0.2.1", None),
        ("169.253.255.255", None),
        ("2001:db8::1", None),
    ],
)
def test_addresses_where_no_issuer_lives(address: str, why: str | None) -> None:
    assert forbidden_address(address) == why


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:a9fe:a9fe]", "[fe80::1]", "[::]", "224.0.0.1"])
async def test_a_literal_address_is_refused(fetcher: Fetcher, host: str) -> None:
    with pytest.raises(FetchError, match=r"cannot connect: the [a-z-]+ address .* is refused"):
        await fetcher.get(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518"])
async def test_an_address_in_disguise_is_refused(fetcher: Fetcher, host: str) -> None:
    with pytest.raises(FetchError):
        await fetcher.get(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254"])
async def test_a_name_that_resolves_to_link_local_is_refused(address: str) -> None:
    async with Fetcher(resolver=Resolver(address)) as fetcher:
        with pytest.raises(FetchError, match=r"the link-local address .* is refused"):
            await fetcher.get("http://idp.example.com/jwks")


async def test_a_name_that_resolves_differently_the_second_time_is_refused(issuer: IssuerServer) -> None:
    issuer.answers["/doc"] = Answer(b"{}")
    url = issuer.url.replace("127.0.0.1", "idp.example.com") + "/doc"
    async with Fetcher(resolver=Resolver("127.0.0.1", "169.254.169.254")) as fetcher:
        await fetcher.get(url)
        with pytest.raises(FetchError, match="link-local"):
            await fetcher.get(url)


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("", None),
        ("public", None),
        ("max-age=600", 600.0),
        ("public, MAX-AGE = 600 , must-revalidate", 600.0),
        ('max-age="600"', 600.0),
        ("max-age=0", 0.0),
        ("no-store", 0.0),
        ("no-cache, max-age=600", 0.0),
        ("s-maxage=600", None),
        ("x-max-age=600", None),
        ("max-age=-5", None),
        ("max-age=soon", None),
        ("max-age=٣", None),
        ("max-age=" + "9" * 8000, float("inf")),
    ],
)
def test_cache_control(field: str, seconds: float | None) -> None:
    assert max_age(field) == seconds


def certificate(folder: Path) -> Path:
    """Write a new self-signed certificate for 127.0.0.1 and its key, both in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    today = datetime.datetime.now(datetime.UTC)
    issued = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = folder / "issuer.pem"
    file.write_bytes(
        issued.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return file


async def test_https_to_a_plain_port_says_so(fetcher: Fetcher, issuer: IssuerServer) -> None:
    with pytest.raises(FetchError, match=r"TLS cannot be established: .*SSL"):
        await fetcher.get(issuer.url.replace("http:", "https:") + "/jwks")


async def test_https_verifies_the_server_and_stays_https(tmp_path: Path) -> None:
    file = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    async with serving(server_side) as issuer, Fetcher() as stranger:
        with pytest.raises(FetchError, match="its certificate is not trusted"):
            await stranger.get(f"{issuer.url}/jwks")
        async with Fetcher(tls=ssl.create_default_context(cafile=file)) as fetcher:
            issuer.publish(public_jwk("a"))
            assert len((await Discovery(issuer.url).load(fetcher)).keys.keys) == 1
            issuer.describe(jwks_uri=issuer.url.replace("https:", "http:") + "/jwks")
            with pytest.raises(FetchError, match="is not https as the issuer is"):
                await Discovery(issuer.url).load(fetcher)


# jwks.ca and jwks.proxy --------------------------------------------------------------------------


async def test_a_private_authority_is_configured(tmp_path: Path) -> None:
    file = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    settings = Jwks.model_validate({"ca": str(file)})
    async with serving(server_side) as issuer, translation.fetcher(settings) as fetcher:
        issuer.publish(public_jwk("a"))
        assert len((await Discovery(issuer.url).load(fetcher)).keys.keys) == 1
    with pytest.raises(OSError, match=r"jwks\.ca: .*absent\.pem cannot be used: No such file"):
        translation.fetcher(Jwks.model_validate({"ca": str(tmp_path / "absent.pem")}))


class Proxy:
    """An egress proxy: CONNECT for https, the whole URL for http."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.refuses = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            method, target, _ = head.split(" ", 2)
            if self.refuses:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif method == "CONNECT":
                await self._tunnel(reader, writer, target)
            else:
                body = b'{"via": "proxy"}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        finally:
            writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        host, _, port = target.rpartition(":")
        behind_reader, behind_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer), return_exceptions=True)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_proxy_is_asked_by_the_name_of_the_issuer(proxy: tuple[Proxy, str]) -> None:
    seen, url = proxy
    settings = Jwks.model_validate({"proxy": url.replace("//", "//user:p%40ss@")})
    async with translation.fetcher(settings) as fetcher:
        document = await fetcher.get("http://idp.invalid/jwks")
    assert document.content == {"via": "proxy"}
    assert seen.heads[0].startswith("GET http://idp.invalid/jwks HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpwQHNz" in seen.heads[0]


async def test_https_goes_through_a_tunnel(proxy: tuple[Proxy, str], tmp_path: Path) -> None:
    seen, url = proxy
    file = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    settings = Jwks.model_validate({"proxy": url, "ca": str(file)})
    async with serving(server_side) as issuer, translation.fetcher(settings) as fetcher:
        issuer.publish(public_jwk("a"))
        assert len((await Discovery(issuer.url).load(fetcher)).keys.keys) == 1
    assert seen.heads[0].startswith(f"CONNECT {issuer.url.removeprefix('https://')} ")


async def test_a_refusal_of_the_proxy_is_reported(proxy: tuple[Proxy, str]) -> None:
    seen, url = proxy
    seen.refuses = True
    async with Fetcher(proxy=url) as fetcher:
        with pytest.raises(FetchError, match=r"the proxy of jwks\.proxy answered 407"):
            await fetcher.get("https://idp.invalid/jwks")
    async with Fetcher(proxy="http://127.0.0.1:9") as fetcher:
        with pytest.raises(
            FetchError, match=r"cannot connect to the proxy of jwks\.proxy: Connection refused"
        ):
            await fetcher.get("https://idp.invalid/jwks")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"])
async def test_no_metadata_service_is_asked_through_a_proxy(proxy: tuple[Proxy, str], host: str) -> None:
    seen, url = proxy
    async with Fetcher(proxy=url) as fetcher:
        with pytest.raises(FetchError, match=r"cannot connect: the .* address .* is refused"):
            await fetcher.get(f"http://{host}/jwks")
    assert seen.heads == []
