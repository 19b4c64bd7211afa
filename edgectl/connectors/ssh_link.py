"""One SSH connection to one machine, by paramiko: authenticated, its host key pinned, and never waiting for ever.

A `Link` knows nothing of agents. It raises `LinkError` with a sentence about the machine that is at fault, which may be
a jump host; `edgectl.connectors.ssh_reach` says which node is meant.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import paramiko

from edgectl.connectors import known_hosts
from edgectl.connectors.ssh_keys import Passphrase, Unusable, offers
from edgectl.connectors.ssh_pulse import Heard, Pulse, ask
from edgectl.connectors.ssh_target import Hop, Pins
from edgectl.connectors.watchdog import Watchdog
from edgectl.machine.interface import Done

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it logs tracebacks of what is an answer to us

IDLE_LOOK_S = 1.0
"""How often paramiko looks whether a keepalive is due; its 0.1 s would cost 200 idle connections 4 % of a core."""
AUTH_S = 20.0
OPEN_S = 15.0
"""To open one channel on a connection that stands."""
SFTP_S = 60.0
"""For one answer of the SFTP server."""
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
_WHOLE = 2**31 - 1
"""Window of a command's channel: its output is kept whole here, so that neither stream can stop the other."""
_BROKEN = (paramiko.SSHException, EOFError, OSError)

watchdog = Watchdog()


class LinkError(Exception):
    """No connection, or it broke. `hint` is the next step."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint

    def of_jump_host(self, hop: Hop) -> LinkError:
        """The same, about a jump host on the way."""
        return LinkError(f"jump host {hop.host}: {self}", self.hint)


class Untrusted(LinkError):
    """A host key that is not the pinned one. `changed`: another is pinned, or this one is revoked; that has a hint."""

    def __init__(self, sentence: str, changed: bool, hint: str = "") -> None:
        super().__init__(sentence, hint)
        self.changed = changed

    def of_jump_host(self, hop: Hop) -> Untrusted:
        return Untrusted(f"jump host {hop.host}: {self}", self.changed, self.hint)


class Link:
    """A connection that stands; any number of threads may use it at a time."""

    def __init__(self, transport: paramiko.Transport, hop: Hop, beneath: Link | None) -> None:
        self.hop = hop
        self.memo: dict[str, Any] = {}
        """What its users keep for as long as the connection lives."""
        self._transport = transport
        self._beneath = beneath
        self._idle: list[paramiko.SFTPClient] = []
        self._gone = ""

    def watch(self) -> None:
        """Close it once the machine is gone: what waits for an answer, or for room to write, ends with `LinkError`."""
        pulse = Pulse(self._transport.sock, self.hop.alive_s, self.hop.gone_s)
        ask(self._transport, self.hop.alive_s)

        def look() -> bool:
            if self.alive and not pulse.there():
                self._gone = f"{self.hop.place} has not answered for {pulse.gone_s:g} s"
                self.close()
            return self.alive

        watchdog.every(self.hop.alive_s * pulse.EVERY, look)

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active()) and (self._beneath is None or self._beneath.alive)

    def run(self, command: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a POSIX shell command to its end. Raises `LinkError`."""
        with self._limit(timeout_s, f"the command did not end within {timeout_s:g} s"):
            channel = self._transport.open_session(window_size=_WHOLE, timeout=OPEN_S)
            try:
                channel.exec_command(command)
                with suppress(OSError):  # a command may end without reading all of it
                    channel.sendall(stdin)
                _end_input(channel)
                out, err = _all(channel.recv), _all(channel.recv_stderr)
                channel.status_event.wait()
                if channel.exit_status < 0 and not self.alive:
                    raise EOFError
                return Done(channel.exit_status if channel.exit_status >= 0 else 255, out, err)
            finally:
                channel.close()

    def open(self, host: str, port: int, timeout_s: float = OPEN_S) -> paramiko.Channel:
        """A connection from that machine to `host`, as `ssh -L` makes them.

        Raises:
            ConnectionError: the machine cannot reach it, or forbids forwarding; the text says which.
            LinkError: the connection broke.
        """
        with self._limit(timeout_s, f"no channel within {timeout_s:g} s"):
            try:
                return self._transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=timeout_s)
            except paramiko.ChannelException as e:
                if e.code == 1:  # administratively prohibited
                    raise ConnectionAbortedError("it forbids forwarding (AllowTcpForwarding)") from e
                raise ConnectionRefusedError(f"it says {str(e.text or 'no').lower()}") from e

    @contextmanager
    def sftp(self) -> Iterator[paramiko.SFTPClient]:
        """An SFTP session of one's own for the block; `OSError` in it is the server's answer. Sessions are used again.

        paramiko's session is for one thread: of two that wait for answers, one gets both.

        Raises:
            LinkError: the connection broke, or there is no SFTP server.
        """
        session = self._session()
        try:
            yield session
        except (paramiko.SSHException, EOFError, TimeoutError) as e:
            self.close()
            raise LinkError(self._why(e)) from e
        except OSError as e:
            if session.get_channel().closed:
                self.close()
                raise LinkError(self._why(e)) from e
            raise
        finally:
            if not session.get_channel().closed:
                self._idle.append(session)

    def _session(self) -> paramiko.SFTPClient:
        with suppress(IndexError):  # a list's append and pop are safe among threads
            while True:
                session = self._idle.pop()
                if not session.get_channel().closed:
                    return session
        with self._limit(OPEN_S, f"no SFTP session within {OPEN_S:g} s"):
            return _sftp(self._transport)

    def _why(self, e: BaseException) -> str:
        """What ended it: `e` may be no more than what its user noticed of that."""
        died = self._transport.sock.died
        if died is not None and died.errno == errno.ETIMEDOUT:
            self._gone = f"{self.hop.place} has not answered for {self.hop.gone_s:g} s"
        return self._gone or _broke(self.hop, died or e)

    def close(self) -> None:
        with suppress(Exception):  # wakes paramiko's reader, which would notice within a second otherwise
            self._transport.sock.shutdown(socket.SHUT_RDWR)
        with suppress(Exception):  # of a jump host's connection that ends at this moment
            self._transport.close()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread of a closed connection has ended, so long at the most."""
        self._transport.join(timeout_s)

    @contextmanager
    def _limit(self, seconds: float, late: str) -> Iterator[None]:
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self.close()

        try:
            with watchdog.limit(seconds, end):
                yield
        except (ConnectionAbortedError, ConnectionRefusedError):
            raise
        except paramiko.ChannelException as e:  # the machine refuses one channel more, and keeps the others
            raise LinkError(_broke(self.hop, e)) from e
        except _BROKEN as e:
            self.close()  # paramiko's reader may not have noticed yet, and the next user must not get this one
            raise LinkError(late if ended.is_set() else self._why(e)) from e


class Transport(paramiko.Transport):  # type: ignore[misc]  # paramiko has no types
    """Ends without a word where it cannot close its socket: a channel of a jump host whose connection went first.

    paramiko 5.1.0 closes it as its thread's last deed and catches nothing; who uses it has been told by then.
    """

    def run(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            super().run()


def connect(hop: Hop, passphrase: Passphrase, beneath: Link | None = None) -> Link:
    """Connect to `hop`, over the connection `beneath` to a jump host if there is one.

    Raises:
        LinkError: it cannot be reached, or accepts no key.
        Untrusted: its host key is not pinned, or another one is.
    """
    files = hop.pins()
    transport = _handshake(hop, beneath, files)
    link = Link(transport, hop, beneath)
    try:
        _trust(hop, files, transport)
        _authenticate(hop, transport, passphrase)
        transport.channel_timeout = OPEN_S
        if beneath is None:
            transport.set_keepalive(hop.alive_s)
        else:
            link.watch()
    except BaseException:
        link.close()
        raise
    return link


def host_key(hop: Hop, beneath: Link | None = None) -> tuple[str, bytes]:
    """The kind and the key that `hop` shows now, whoever it is: for pinning. Raises `LinkError`."""
    transport = _handshake(hop, beneath, hop.pins())
    try:
        key = transport.get_remote_server_key()
        return str(key.get_name()), bytes(key.asbytes())
    finally:
        Link(transport, hop, beneath).close()


def _handshake(hop: Hop, beneath: Link | None, pins: Pins) -> paramiko.Transport:
    sock = Heard(_socket(hop) if beneath is None else _channel(hop, beneath))
    try:
        transport = Transport(sock)
    except _BROKEN as e:
        sock.close()
        raise LinkError(f"{hop.place} hung up: {_why(e)}") from e
    sock.settimeout(IDLE_LOOK_S)
    transport.banner_timeout = transport.handshake_timeout = hop.timeout_s
    transport.auth_timeout = AUTH_S
    options = transport.get_security_options()
    options.ciphers, options.digests = _CIPHERS, _MACS
    options.key_types = _preferred(options.key_types, [entry.kind for entry in known_hosts.pinned(pins, hop.names)])
    done = threading.Event()
    try:
        transport.start_client(event=done)
        if not done.wait(hop.timeout_s) or not transport.is_active():
            raise transport.get_exception() or TimeoutError
    except BaseException as e:
        Link(transport, hop, beneath).close()
        if not isinstance(e, _BROKEN):
            raise
        raise LinkError(_no_ssh(hop, e), "see that an SSH server listens there") from e
    return transport


def _socket(hop: Hop) -> socket.socket:
    try:
        sock = socket.create_connection((hop.host, hop.port), hop.timeout_s)
    except OSError as e:
        raise _unreached(hop, e) from e
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(hop.gone_s * 1000))
    return sock


def _unreached(hop: Hop, e: OSError) -> LinkError:
    if isinstance(e, socket.gaierror):
        why = (e.strerror or str(e)).lower()
        return LinkError(f"the name {hop.host} cannot be resolved: {why}", "see connect.host")
    if isinstance(e, TimeoutError):
        return LinkError(f"{hop.place} does not answer within {hop.timeout_s:g} s", "is it up, and is the way open?")
    if isinstance(e, ConnectionRefusedError):
        return LinkError(f"{hop.place} refuses the connection", "is its SSH server up, and the port right?")
    return LinkError(f"{hop.place} cannot be reached: {(e.strerror or str(e)).lower()}", "is it up?")


def _channel(hop: Hop, beneath: Link) -> paramiko.Channel:
    try:
        return beneath.open(hop.host, hop.port, hop.timeout_s)
    except ConnectionError as e:
        forbids = isinstance(e, ConnectionAbortedError)
        hint = "allow it in the jump host's sshd_config, or name another: connect.jump" if forbids else "is it up?"
        raise LinkError(f"{hop.place} cannot be reached from jump host {beneath.hop.place}: {e}", hint) from e


def _no_ssh(hop: Hop, e: BaseException) -> str:
    if isinstance(e, TimeoutError) or "protocol banner" in str(e):  # whose time ends first, ours or paramiko's
        return f"{hop.place} answers, and does not speak SSH within {hop.timeout_s:g} s"
    return f"{hop.place} broke off before it was known: {_why(e)}"


def _preferred(offered: Sequence[str], kinds: Sequence[str]) -> tuple[str, ...]:
    """Host key algorithms, those of pinned keys first, so that the machine shows the key that we know."""
    known = {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set()
    return tuple(sorted(offered, key=lambda kind: kind not in known and kind not in kinds))


def _trust(hop: Hop, files: Pins, transport: paramiko.Transport) -> None:
    key = transport.get_remote_server_key()
    verdict = known_hosts.judge(files, hop.names, key.asbytes())
    found = f"{key.get_name()} {known_hosts.fingerprint(key.asbytes())}"
    if verdict.answer == "unknown":
        raise Untrusted(f"the host key of {hop.place} is not pinned; it shows {found}", changed=False)
    if verdict.answer == "revoked":
        where = verdict.pinned[0].where
        raise Untrusted(f"{hop.place} shows {found}, which {where} revokes", changed=True, hint=known_hosts.ANOTHER_KEY)
    if verdict.answer == "changed":
        first = next((e for e in verdict.pinned if e.kind == key.get_name()), verdict.pinned[0])
        expected = f"{first.kind} {first.fingerprint} ({first.where})"
        raise Untrusted(f"the host key of {hop.place} has changed: expected {expected}, found {found}", changed=True)


def _authenticate(hop: Hop, transport: paramiko.Transport, passphrase: Passphrase) -> None:
    tried: list[str] = []
    unusable: list[str] = []
    with offers(hop, passphrase) as keys:
        for offer in keys:
            if isinstance(offer, Unusable):
                unusable.append(str(offer))
            elif _accepts(hop, transport, offer.key):
                return
            else:
                tried.append(offer.label)
            if not transport.is_active():
                raise LinkError(
                    f"{hop.who} hung up after {len(tried)} keys ({', '.join(tried)})", "name the right one: connect.key"
                )
    refused = f"{hop.who} accepts none of the keys offered ({', '.join(tried)})" if tried else ""
    nothing = "" if refused or unusable else f"there is no key to offer to {hop.who}"
    locked = "set connect.key_passphrase, or hand the key to ssh-agent: ssh-add"
    hint = locked if unusable and not refused and "is encrypted" in unusable[0] else "see connect.user and connect.key"
    raise LinkError("; ".join(part for part in (refused, nothing, *unusable) if part), hint)


def _accepts(hop: Hop, transport: paramiko.Transport, key: Any) -> bool:
    try:
        left = transport.auth_publickey(hop.user, key)
    except paramiko.BadAuthenticationType as e:
        raise LinkError(f"{hop.who} takes no keys, only {', '.join(e.allowed_types)}") from e
    except paramiko.AuthenticationException as e:
        if "timeout" in str(e).lower():
            raise LinkError(f"{hop.who} did not say within {AUTH_S:g} s whether it accepts the key") from e
        return False
    except _BROKEN as e:
        if transport.is_active():  # the ssh-agent could not sign
            return False
        raise LinkError(_broke(hop, e)) from e
    if left:
        raise LinkError(f"{hop.who} wants more than a key: {', '.join(left)}")
    return True


def _end_input(channel: paramiko.Channel) -> None:
    """Let the command read the end of its input.

    `shutdown_write` of paramiko 5.1.0 lets the channel go before it sends: where the machine closes the channel at that
    moment, the message follows the answer to that, and sshd ends the whole connection, which others use, too.
    """
    clear = channel.transport.clear_to_send
    while channel.transport.is_active():
        with channel.lock:
            if clear.is_set():  # else keys are negotiated, and paramiko's reader may need the channel for that
                message = channel._send_eof()
                if message is not None:
                    channel.transport._send_user_message(message)
                return
        clear.wait(0.1)


def _sftp(transport: paramiko.Transport) -> paramiko.SFTPClient:
    channel = transport.open_session(timeout=OPEN_S)
    channel.invoke_subsystem("sftp")
    channel.settimeout(SFTP_S)
    return paramiko.SFTPClient(channel)


def _all(receive: Callable[[int], bytes]) -> bytes:
    return b"".join(iter(lambda: receive(1 << 18), b""))


def _broke(hop: Hop, e: BaseException) -> str:
    return f"the connection to {hop.place} broke: {_why(e)}"


def _why(e: BaseException) -> str:
    if isinstance(e, EOFError) or str(e).startswith("Server connection dropped"):  # paramiko's SFTP, for an EOFError
        return "the other side closed it"
    said = getattr(e, "strerror", None) or str(e) or type(e).__name__
    return said.rstrip(".")[:1].lower() + said.rstrip(".")[1:]
