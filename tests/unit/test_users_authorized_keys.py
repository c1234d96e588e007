"""Lines of authorized_keys: what OpenSSH's options mean here, and what is refused."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.authorized_keys import AuthorizedKey, UnusableLine, parse_authorized_key, parse_principal
from containerssh.core.metadata import Restrictions

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

NOTHING = Restrictions(pty=False, port_forwarding=False, agent_forwarding=False, x11_forwarding=False, user_rc=False)


def parse(line: str) -> AuthorizedKey:
    found = parse_authorized_key(line)
    assert found is not None
    return found


def generate(folder: Path, kind: str, bits: int | None = None) -> str:
    size = ["-b", str(bits)] if bits else []
    file = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "a comment", "-f", file], check=True)
    return file.with_suffix(".pub").read_text()


@pytest.mark.parametrize(
    ("kind", "bits"), [("ed25519", None), ("rsa", 2048), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521)]
)
def test_keys_as_ssh_keygen_writes_them(tmp_path: Path, kind: str, bits: int | None) -> None:
    line = generate(tmp_path, kind, bits)
    entry = parse(line)
    assert entry.key.authorized_key == " ".join(line.split()[:2])
    assert (entry.restrictions, entry.environment, entry.sources, entry.expires) == (Restrictions(), {}, None, None)


@pytest.mark.parametrize("line", ["", "   \t", "# a comment", "\t# one more", "\r\n"])
def test_empty_lines_and_comments_say_nothing(line: str) -> None:
    assert parse_authorized_key(line) is None


@pytest.mark.parametrize(
    ("options", "rights"),
    [
        ("no-pty", Restrictions(pty=False)),
        ("NO-PTY", Restrictions(pty=False)),
        ("no-pty,pty", Restrictions()),
        ("no-port-forwarding", Restrictions(port_forwarding=False)),
        ("no-agent-forwarding", Restrictions(agent_forwarding=False)),
        ("no-X11-forwarding", Restrictions(x11_forwarding=False)),
        ("no-user-rc", Restrictions(user_rc=False)),
        ("restrict", NOTHING),
        ("restrict,pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc", Restrictions()),
        ("pty,restrict", NOTHING),
        ('command="echo \\"hi\\", #x = \\\\n"', Restrictions(force_command='echo "hi", #x = \\\\n')),
        ('command="x",no-pty', Restrictions(force_command="x", pty=False)),
    ],
)  # fmt: skip
def test_options_take_rights_away_and_give_them_back_in_order(options: str, rights: Restrictions) -> None:
    assert parse(f"{options} {ED25519} me").restrictions == rights


def test_options_of_security_keys() -> None:
    assert parse(f"no-touch-required {ED25519}").restrictions == Restrictions(touch_required=False)
    assert parse(f"restrict,verify-required {ED25519}").restrictions == replace(NOTHING, verify_required=True)


def test_a_key_may_stand_for_the_certificates_that_it_signs() -> None:
    assert not parse(ED25519).is_authority
    entry = parse(f"cert-authority {ED25519}")
    assert (entry.is_authority, entry.principals) == (True, None)
    assert parse(f'cert-authority,principals="ops,on call" {ED25519}').principals == ("ops", "on call")


def test_variables_of_a_key_and_the_first_of_a_name_counts() -> None:
    entry = parse(f'environment="A=1",environment="B=x=\\"y\\"",environment="A=2" {ED25519}')
    assert entry.environment == {"A": "1", "B": 'x="y"'}


@pytest.mark.parametrize(
    ("patterns", "address", "allowed"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.70", False),
        ("192.0.2.*", "192.0.2.70", True),
        ("192.0.2.?", "192.0.2.70", False),
        ("*", "2001:db8::1", True),
        ("*,!192.0.2.0/24", "192.0.2.1", False),
        ("!192.0.2.0/24,*", "192.0.2.1", False),
        ("!192.0.2.0/24,*", "198.51.100.1", True),
        ("!192.0.2.0/24", "198.51.100.1", False),
        ("2001:DB8::/32", "2001:db8:1::5", True),
        ("2001:db8:0:0::1", "2001:db8::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.0.0.0/8,192.0.2.1", "192.0.2.1", True),
        ("*", "not an address", False),
    ],
)
def test_a_key_may_be_tied_to_addresses(patterns: str, address: str, allowed: bool) -> None:
    sources = parse(f'from="{patterns}" {ED25519}').sources
    assert sources is not None
    assert sources.allow(address) is allowed


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20300102Z", datetime(2030, 1, 2, tzinfo=UTC)),
        ("203001020304Z", datetime(2030, 1, 2, 3, 4, tzinfo=UTC)),
        ("20300102030405Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("20300102", datetime(2030, 1, 2).astimezone()),
    ],
)
def test_a_key_may_expire(text: str, moment: datetime) -> None:
    assert parse(f'expiry-time="{text}" {ED25519}').expires == moment


def test_the_earlier_of_two_moments_counts() -> None:
    entry = parse(f'expiry-time="20300101Z",expiry-time="20290101Z" {ED25519}')
    assert entry.expires == datetime(2029, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "options",
    [
        "nonsense", 'cert-authority="yes"', 'cert-authority,principals=""', 'cert-authority,principals="a,,b"',
        'cert-authority,principals="a",principals="b"', 'verify-required="yes"', "principals",
        "no-restrict", "command", ",pty", "pty,",
        'principals="a"', 'tunnel="0"', 'nonsense="x"', "permitopen", "permitlisten", "permitopen=host:22",
        'pty="yes"', 'restrict="x"', 'command=""', 'command=" \t"', 'command="a",command="b"', 'command="unfinished',
        'command="a"pty',
        'command="a\\"', 'from="*",from="*"', "from=10.0.0.1", 'from="host.example.com"', 'from="*.example.com"',
        'from=""', 'from="10.0.0.1/8"', 'from="10.0.0.0/33"', 'from="1.2.3.4,,5.6.7.8"',
        'environment="no equals"', 'environment="=x"', 'environment="A B=x"',
        'expiry-time="tomorrow"', 'expiry-time="20301301Z"', 'expiry-time="2030"', 'expiry-time="00000101"',
    ],
)  # fmt: skip
def test_an_option_that_is_not_understood_takes_its_line_with_it(options: str) -> None:
    with pytest.raises(ValueError):
        parse_authorized_key(f"{options} {ED25519}")


@pytest.mark.parametrize(
    "line",
    [
        "ssh-ed25519",
        "ssh-ed25519 !!!!",
        "ssh-ed25519 AAAA",
        "ssh-rsa " + ED25519.split()[1],
        ED25519[:-8],
        ED25519 + "AAAA",
        "ssh-dss AAAAB3NzaC1kc3MAAAAA",
        "ssh-ed25519-cert-v01@openssh.com AAAA",
        "pty",
        "pty ",
        "AAAAC3NzaC1lZDI1NTE5",
        "ssh-ed25519 \x1b[2J",
        "x" * 20_000,
        "restrict " + "ecdsa-sha2-nistp256 " + ED25519.split()[1],
    ],
)
def test_a_line_without_a_usable_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        parse_authorized_key(line)


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2048"):
        parse_authorized_key(generate(tmp_path, "rsa", 1024))


OPTIONS = st.lists(
    st.sampled_from(
        ["pty", "restrict", "no-pty", 'command="', "from=", '"', "\\", ",", " ", "=", "*", 'environment="A=']
    ),
    max_size=12,
).map("".join)


@given(st.one_of(st.text(max_size=100), OPTIONS), st.sampled_from(["", " ", f" {ED25519}", f"\t{ED25519} c"]))
def test_any_line_is_a_key_or_refused(start: str, end: str) -> None:
    try:
        entry = parse_authorized_key(start + end)
    except ValueError:
        return
    assert entry is None or entry.key.authorized_key == ED25519


def principal(line: str) -> AuthorizedKey | None:
    return parse_principal(line, replace(parse(ED25519), is_authority=True, principals=("alice",)))


@pytest.mark.parametrize("line", ["", "# ops", " \t"])
def test_a_file_of_principals_may_have_comments(line: str) -> None:
    assert principal(line) is None


def test_a_principal_may_have_options_before_it() -> None:
    for line, name, rights in (
        ("ops", "ops", Restrictions()),
        (" on-call@example.com ", "on-call@example.com", Restrictions()),
        ('no-pty,command="echo a b" ops', "ops", Restrictions(pty=False, force_command="echo a b")),
    ):
        entry = principal(line)
        assert entry is not None
        assert (entry.principals, entry.restrictions, entry.is_authority) == ((name,), rights, True)


@pytest.mark.parametrize("line", ["a b", "no-pty a b", "cert-authority a", 'principals="x" a', "nonsense a", 'a "'])
def test_a_line_that_is_no_principal_is_refused(line: str) -> None:
    with pytest.raises(UnusableLine):
        principal(line)


@given(st.text(st.sampled_from('=,"!/ \t:*.1#an\0'), max_size=20), st.sampled_from(["", "no-pty ", 'from="', "pty,"]))
def test_any_line_of_a_file_of_principals_is_one_or_refused(line: str, start: str) -> None:
    with suppress(UnusableLine):
        entry = principal(start + line)
        assert entry is None or (entry.principals and " " not in entry.principals[0] and entry.is_authority)


SECRET = "Xq7hunter2Zw"


@given(
    st.text(st.sampled_from('=,"!/ \t:*.1'), max_size=6),
    st.sampled_from(
        ["", "from=", 'from="', 'command="', 'expiry-time="', 'environment="', "pty,", "ssh-rsa ", ED25519[:30]]
    ),
    st.sampled_from(["", " ", '"', '" ', ",", f" {ED25519}", f'" {ED25519}']),
)
def test_the_kind_of_a_mistake_tells_nothing_of_the_line(before: str, start: str, after: str) -> None:
    for line in (f"{start}{before}{SECRET}{after}", f"{before}{start}{SECRET}{after}"):
        kind = ""
        try:
            parse_authorized_key(line)
        except UnusableLine as exc:
            kind = exc.kind
        assert SECRET.lower() not in kind.lower()


@given(
    st.text(
        st.characters(min_codepoint=32, exclude_characters='"\\', exclude_categories=["Cs"]), min_size=1, max_size=50
    ).filter(str.strip)
)
def test_a_command_comes_through_as_it_is_written(command: str) -> None:
    assert parse(f'command="{command}" {ED25519}').restrictions.force_command == command
