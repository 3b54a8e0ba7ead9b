"""Origins are compared by what they are: whoever only looks like this host is not this host."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0tta6bl4.status.origins import Origin, is_localhost, parse_origin

LOCAL = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8443",
    "HTTP://LOCALHOST:3000",
    "http://LocalHost",
    "http://localhost.",
    "http://localhost.:3000",
    "http://127.0.0.1",
    "http://127.0.0.1:8000",
    "http://127.0.0.2",
    "http://127.255.255.254:1",
    "http://[::1]",
    "http://[::1]:3000",
    "https://[0:0:0:0:0:0:0:1]:3000",
    "http://[::0001]:65535",
    "http://[::ffff:127.0.0.1]:3000",
    "http://[::ffff:7f00:1]",
    "http://[::FFFF:7F00:1]",
]
ELSEWHERE = [
    "http://localhost.evil.com",
    "http://localhost.evil.com:3000",
    "http://127.0.0.1.evil.com",
    "http://127.0.0.1.evil.com:3000",
    "http://evil.com",
    "http://evil-localhost",
    "http://notlocalhost",
    "http://localhost-evil.com",
    "http://localhosts",
    "http://foo.localhost",
    "http://localhost.localdomain",
    "http://xn--localhost-abc.com",
    "http://128.0.0.1",
    "http://126.255.255.255",
    "http://0.0.0.0",
    "http://0.0.0.0:3000",
    "http://10.0.0.1",
    "http://[::]",
    "http://[::2]",
    "http://[2001:db8::1]",
    "http://[fe80::1]",
    "http://[::ffff:10.0.0.1]",
    "http://[::127.0.0.1]",
    "http://[64:ff9b::7f00:1]",
]
NONE = [
    "",
    "null",
    "NULL",
    "*",
    "localhost",
    "localhost:3000",
    "//localhost",
    "http:/localhost",
    "http:localhost",
    "http:///localhost",
    "http://",
    "http://:3000",
    "http://localhost@evil.com",
    "http://evil.com@localhost",
    "http://localhost:3000@evil.com",
    "http://user:password@localhost",
    "http://localhost/",
    "http://localhost/path",
    "http://localhost?q",
    "http://localhost#f",
    "http://localhost\\@evil.com",
    "http://localhost:3000 http://evil.com",
    "http://localhost, http://evil.com",
    " http://localhost",
    "http://localhost ",
    "http://localhost\n",
    "http://localhost\t",
    "http://local\thost",
    "http://localhost\0.evil.com",
    "http://localhost%2eevil.com",
    "http://localhost%00",
    "http://loc\u0430lhost",
    "http://\u212aernel.example.org",  # its small letter is a plain k
    "http://\uff4cocalhost",
    "http://127\u30020\u30020\u30021",
    "http://localhost\udc80",
    "http://localhost:",
    "http://localhost:0",
    "http://localhost:080",
    "http://localhost:65536",
    "http://localhost:99999",
    "http://localhost:-1",
    "http://localhost:+1",
    "http://localhost:3000:3000",
    "http://localhost:3e3",
    "http://localhost:\u0663\u0660",
    "http://localhost..",
    "http://.localhost",
    "http://local..host",
    "http://" + "a" * 64 + ".com",
    "http://" + "a." * 200 + "com",
    "http://0177.0.0.1",
    "http://0177.0.0.01:3000",
    "http://127.0.0.01",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://127.1",
    "http://127.0.1",
    "http://127.0.0.1.",
    "http://127.0.0.256",
    "http://127.0.0.0.1",
    "http://localhost.1",
    "http://1",
    "http://[::1",
    "http://::1]",
    "http://::1",
    "http://[::1]extra",
    "http://[::1].evil.com",
    "http://[::1%25lo]",
    "http://[::1%lo]:3000",
    "http://[:::1]",
    "http://[127.0.0.1]",
    "http://[localhost]",
    "http://[::ffff:127.0.0.01]",
    "http://[]",
    "file://",
    "file://localhost",
    "ftp://localhost",
    "ws://localhost",
    "javascript://localhost",
    "chrome-extension://abcdefghijklmnop",
    "httpx://localhost",
    "http s://localhost",
    "https//localhost",
    "http://" + "1" * 5_000_000,
]


@pytest.mark.parametrize("text", LOCAL)
def test_this_host_is_known_by_each_of_its_names(text: str) -> None:
    assert is_localhost(text)
    assert is_localhost(parse_origin(text))


@pytest.mark.parametrize("text", ELSEWHERE)
def test_whoever_only_looks_like_this_host_is_elsewhere(text: str) -> None:
    assert parse_origin(text) is not None
    assert not is_localhost(text)


@pytest.mark.parametrize("text", NONE, ids=lambda text: ascii(text[:40]))
def test_what_is_no_origin_of_a_page_is_none(text: str) -> None:
    assert parse_origin(text) is None
    assert not is_localhost(text)


def test_none_is_not_this_host() -> None:
    assert not is_localhost(None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.org", "http://example.org:80"),
        ("https://example.org", "https://example.org:443"),
        ("https://EXAMPLE.org", "https://example.ORG"),
        ("http://[2001:DB8::1]", "http://[2001:db8:0:0::1]:80"),
    ],
)
def test_what_a_browser_takes_for_one_origin_is_one(one: str, other: str) -> None:
    assert parse_origin(one) == parse_origin(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.org", "https://example.org"),
        ("http://example.org:443", "https://example.org:443"),
        ("http://example.org", "http://example.org:8080"),
        ("http://example.org", "http://example.org."),
        ("http://example.org", "http://www.example.org"),
        ("http://localhost:3000", "http://127.0.0.1:3000"),
        ("http://127.0.0.1", "http://[::ffff:127.0.0.1]"),
    ],
)
def test_what_a_browser_tells_apart_is_told_apart(one: str, other: str) -> None:
    assert parse_origin(one) is not None
    assert parse_origin(one) != parse_origin(other)


@pytest.mark.parametrize("text", ["http://example.org", "https://example.org:8443", "http://[2001:db8::1]:80"])
def test_an_origin_is_written_as_browsers_write_it(text: str) -> None:
    assert str(parse_origin(text)) == text.removesuffix(":80")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_every_text_has_an_answer(text: str) -> None:
    for one in (text, f"http://{text}", f"http://localhost{text}", f"http://[{text}]:1", f"http://127.0.0.1{text}"):
        origin = parse_origin(one)
        assert origin is None or parse_origin(str(origin)) == origin


@settings(deadline=None)
@given(st.from_regex(r"\A[a-z0-9.-]{1,20}\Z"))
def test_no_name_after_localhost_is_this_host(more: str) -> None:
    assert is_localhost(f"http://localhost{more}") == (more == ".")
    assert not is_localhost(f"http://localhost.{more}x")


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_address_is_this_host_when_it_is_loopback(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    assert is_localhost(Origin("http", str(address), 80)) == address.is_loopback
    assert is_localhost(f"http://[::ffff:{address}]") == address.is_loopback
    assert not is_localhost(f"http://{number}")
