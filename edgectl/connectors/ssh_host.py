"""A machine reached by SSH, as its administrator: commands by exec, files by SFTP, root by login or by sudo.

A file is written under a temporary name in its own folder, compared by SHA-256 on the machine, and renamed. A large one
goes to ``.NAME.HASH.part``, so that the same upload goes on where it was cut. What root must own goes to the user's
home first and is installed from there; so does what root by login puts into the agent's folders, see
`edgectl.machine.agents_own`.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from edgectl.connectors import Context
from edgectl.connectors.sftp import LARGE, Upload, put
from edgectl.connectors.ssh_reach import Reach, reach
from edgectl.core.errors import NodeUnreachable, RemoteRefused, StorageError
from edgectl.inventory.types import Node
from edgectl.machine import writing
from edgectl.machine.interface import Done, Host, Told
from edgectl.machine.shell import words

SCRIPT_S = 120.0
"""For our own small scripts on the machine; it may be slow and busy."""
_ENGLISH = "LC_ALL=C; export LC_ALL\n"
"""Their complaints are read here."""

SYSTEM_PATH = "env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "
"""For root by login, as sudo's `secure_path` for others: a Python in root's home is of no use to the agent's user."""
_SAME = """\
folder=$(dirname "$1") name=$(basename "$1")
for litter in "$folder/.$name".*.part "$folder/.$name".*.tmp; do
    case $litter in *".$3."*) ;; *) rm -f "$litter" ;; esac
done
if [ -f "$1" ] && [ "$(stat -c %a "$1")" = "$2" ] && sha256sum < "$1" | grep -q "^$3"; then echo same; fi
"""
"""PATH MODE HASH: says ``same`` if nothing is to be done, and removes what uploads of other content have left."""

_STAGE = """\
for litter in .edgectl-* ..edgectl-*; do
    case $litter in *"$1"*) ;; *) rm -f "$litter" ;; esac
done
pwd
"""
"""HASH: prints the user's home, without what earlier uploads have left there."""


class SshHost(Host):
    """See `Host` for the promise."""

    def __init__(self, reach: Reach) -> None:
        self.name = reach.name
        self._reach = reach

    def run(self, command: str, *, stdin: bytes = b"", root: bool = False, timeout_s: float = 60.0) -> Done:
        # `exit` keeps the shell from replacing itself by the command: so a signal becomes 128 + n
        script = words("sh", "-c", f"{command}\nexit $?")
        with self._reach.link() as link:
            if root:
                prefix, typed = self._root()
                return link.run(f"{prefix or SYSTEM_PATH}{script}", typed + stdin, timeout_s)
            return link.run(script, stdin, timeout_s)

    def read(self, path: str, *, root: bool = False) -> bytes | None:
        done = self._script(words("cat", "--", path), root=root)
        if done.status == 0:
            return done.out
        if "No such file" in done.complaint or "Not a directory" in done.complaint:
            return None
        raise StorageError(f"node {self.name}: cannot read {path}: {_reason(done.complaint)}")

    def write(
        self, path: str, content: bytes | Path, *, mode: int = 0o644, root: bool = False, told: Told | None = None
    ) -> bool:
        upload = Upload.of(content, told)
        same = writing.careful(_SAME) if root else _SAME
        if self.script(same, path, f"{mode:o}", upload.sha256, root=root).text == "same":
            return False
        if upload.size <= LARGE:
            self._take(path, mode, upload, root, stdin=upload.bytes())
        elif not root or (self.is_root and self.script(writing.THEIRS, path, root=True).status == 1):
            self._make_folder(posixpath.dirname(path), root)
            self._put(path, mode, upload)
        else:
            staged = f"{self.script(_STAGE, upload.sha256).text}/.edgectl-{upload.sha256}"
            self._put(staged, 0o600, upload)
            self._take(path, mode, upload, root, staged=staged)
        return True

    @property
    def is_root(self) -> bool:
        """Whether the login is root's."""
        with self._reach.link() as link:
            if "uid" not in link.memo:
                link.memo["uid"] = link.run("id -u", timeout_s=SCRIPT_S).text
            return bool(link.memo["uid"] == "0")

    # ── root ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _root(self) -> tuple[str, bytes]:
        """What to put before a command, and before its input, so that it runs as root. Raises `RemoteRefused`."""
        with self._reach.link() as link:
            if "root" not in link.memo:
                link.memo["root"] = ("", b"") if self.is_root else self._sudo()
            prefix: tuple[str, bytes] = link.memo["root"]
            return prefix

    def _sudo(self) -> tuple[str, bytes]:
        plain = self._script("sudo -n true")
        if plain.status == 0:
            return "sudo -n -- ", b""
        user = self._reach.target().last.user
        if plain.status == 127 or "not found" in plain.complaint:
            raise self._no_root(f"{user} is not root, and there is no sudo", "log in as root: connect.user")
        password = self._reach.sudo_password()
        if password is None:
            raise self._no_root(
                f"sudo does not let {user} be root without a password ({_reason(plain.complaint)})",
                "set connect.sudo_password, or allow it in sudoers with NOPASSWD",
            )
        # -k: sudo asks every time; a password that it does not read would become the command's input
        typed = password.encode() + b"\n"
        asked = self._script("sudo -k -S -p '' true", stdin=typed)
        if asked.status:
            raise self._no_root(f"sudo refuses {user}: {_reason(asked.complaint)}", "see connect.sudo_password")
        return "sudo -k -S -p '' -- ", typed

    def _no_root(self, why: str, hint: str) -> RemoteRefused:
        return RemoteRefused(f"node {self.name}: {why}", status=403, hint=hint, reason="no-root")

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def whole(self, path: str, sha256: str) -> bool:
        """Whether a file of the user's has that SHA-256."""
        return self._script(f"sha256sum < {words(path)}").text.startswith(sha256)

    def refuses(self, path: str, e: OSError, size: int) -> StorageError:
        """The error for what SFTP refuses: it says "Failure" of a full disk, so the machine itself is asked why."""
        folder = posixpath.dirname(path) or "."
        script = 'f="$1/.edgectl.$$"; head -c "$2" /dev/zero > "$f"; s=$?; rm -f "$f"; exit $s'
        done = self.script(script, folder, str(min(size, 1 << 20)))
        return self._cannot_write(path, done.complaint if done.status else e.strerror or str(e))

    def script(self, script: str, *arguments: str, stdin: bytes = b"", root: bool = False) -> Done:
        """Run `script` with `arguments` as ``$1`` and so on; its complaints are in English. Raises as `run`."""
        return self._script(f"set -- {words(*arguments)}\n{script}", stdin=stdin, root=root)

    def _put(self, path: str, mode: int, upload: Upload) -> None:
        with self._reach.link() as link:
            try:
                with link.sftp() as sftp:
                    put(sftp, path, upload, mode, whole=self.whole, always=True)
            except OSError as e:
                raise self.refuses(path, e, upload.size) from e

    def _make_folder(self, folder: str, root: bool) -> None:
        done = self.script(writing.FOLDER + 'made "$1"', folder, root=root)
        if done.status:
            raise self._cannot_write(folder, done.complaint)

    def _take(self, path: str, mode: int, upload: Upload, root: bool, stdin: bytes = b"", staged: str = "") -> None:
        take = writing.BY_ROOT if root else writing.TAKE
        done = self.script(take, path, f"{mode:o}", upload.sha256, staged, root=root, stdin=stdin)
        if done.status == 3:
            raise NodeUnreachable(f"node {self.name}: {path}: {done.complaint}", hint="run the same command again")
        if done.status:
            raise self._cannot_write(path, done.complaint)

    def _cannot_write(self, path: str, complaint: str) -> StorageError:
        why = _reason(complaint)
        hint = f"make room on {self.name}" if "no space" in why or "quota" in why else None
        return StorageError(f"node {self.name}: cannot write {path}: {why}", hint=hint)

    # ── scripts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _script(self, script: str, *, stdin: bytes = b"", root: bool = False) -> Done:
        return self.run(_ENGLISH + script, stdin=stdin, root=root, timeout_s=SCRIPT_S)


def host(node: Node, context: Context) -> SshHost:
    """The machine that `node` names; no connection is made yet."""
    return SshHost(reach(node, context))


def _reason(complaint: str) -> str:
    """The last part of ``cat: /etc/x: Permission denied``, as part of a sentence."""
    said = complaint.rpartition(": ")[2].rstrip(".")
    return said[:1].lower() + said[1:]
