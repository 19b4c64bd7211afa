"""OpenSSH's known_hosts, as `edgectl.connectors.known_hosts` and `edgectl.machine.shell` must read and write it."""

from __future__ import annotations

import base64
import hmac
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.connectors.known_hosts import address, judge, parse, pin, pinned
from edgectl.machine.shell import words


def key(seed: bytes = b"a", kind: str = "ssh-ed25519") -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode() + seed * 32


def line(names: str, raw: bytes, marker: str = "") -> str:
    return f"{marker}{names} ssh-ed25519 {base64.b64encode(raw).decode()}\n"


def hashed(name: str) -> str:
    salt = b"s" * 20
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    ("names", "name", "answer"),
    [
        ("press-01", "press-01", "trusted"),
        ("a,press-01,b", "press-01", "trusted"),
        ("[press-01]:2222", "press-01", "unknown"),
        ("[press-01]:2222", "[press-01]:2222", "trusted"),
        ("press-*", "press-01", "trusted"),
        ("press-*,!press-01", "press-01", "unknown"),
        ("press-0?", "press-01", "trusted"),
        (hashed("press-01"), "press-01", "trusted"),
        (hashed("press-01"), "press-02", "unknown"),
        (hashed("[press-01]:2222"), "[press-01]:2222", "trusted"),
        ("|1|nonsense", "press-01", "unknown"),
    ],
)
def test_a_line_names_the_hosts_that_openssh_says(names: str, name: str, answer: str) -> None:
    assert judge([parse(line(names, key()))], [name], key()).answer == answer


def test_another_key_is_changed_and_says_where_the_pinned_one_is() -> None:
    verdict = judge([parse("# first\n" + line("h", key()), "kh")], ["h"], key(b"b"))
    assert (verdict.answer, verdict.pinned[0].where) == ("changed", "kh:2")


def test_the_first_file_that_knows_a_host_decides() -> None:
    first, second = parse(line("h", key(b"a"))), parse(line("h", key(b"b")))
    assert judge([first, second], ["h"], key(b"b")).answer == "changed"
    assert judge([(), second], ["h"], key(b"b")).answer == "trusted"
    assert judge([parse(line("node", key(b"b")) + line("h", key(b"a")))], ["node", "h"], key(b"a")).answer == "changed"


def test_a_revoked_key_is_refused_wherever_it_is_revoked() -> None:
    files = [parse(line("h", key())), parse(line("*", key(), "@revoked "))]
    assert judge(files, ["h"], key()).answer == "revoked"


@pytest.mark.parametrize(
    "text", ["h ssh-ed25519", "h ssh-ed25519 ???", "h ssh-rsa " + base64.b64encode(key()).decode(), "@cert-authority "]
)
def test_lines_that_make_no_sense_trust_nobody(text: str) -> None:
    assert parse(text) == ()
    assert parse(line("*", key(), "@cert-authority ")) == ()


hosts = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)


@given(st.lists(hosts, max_size=4), hosts, st.integers(1, 65535))
def test_what_is_pinned_is_the_only_key_of_its_name_and_other_names_keep_theirs(
    others: list[str], host: str, port: int
) -> None:
    name = address(host, port)
    old = "".join(line(f"{other},{name}" if i % 2 else other, key(b"o")) for i, other in enumerate(others))
    text = pin(old, name, "ssh-ed25519", key(b"n"))
    assert [entry.key for entry in pinned([parse(text)], [name])] == [key(b"n")]
    assert all(pinned([parse(text)], [other])[0].key == key(b"o") for other in others if other != name)
    assert pin(text, name, "ssh-ed25519", key(b"n")) == text


def test_pinning_takes_a_hashed_name_out_too() -> None:
    assert pin(line(hashed("h"), key()), "h", "ssh-ed25519", key(b"n")) == line("h", key(b"n"))


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_every_part_is_one_word_of_the_shell(parts: list[str]) -> None:
    assert shlex.split(words(*parts)) == parts


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        words("a\0b")
