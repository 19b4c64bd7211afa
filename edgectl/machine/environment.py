"""The agent's Python environments on a machine: one folder per version and set of packages, made whole or not at all.

An environment is named after what is in it (``0.2.0-1f3a9c04``). It is installed under a temporary name, verified by
importing the agent, and then renamed: one of the final name is whole, and a rerun after a cut link makes it anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from edgectl.core.errors import RemoteRefused, StorageError
from edgectl.machine.interface import Done, Host, Told
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

INSTALL_S = 850.0
"""On a slow node pip takes minutes; less than a lease."""

_UNUSED = "/tests?/|/onnxruntime/(transformers|tools|quantization)/|/numpy/(distutils|f2py|polynomial|ma|testing)/"
_UNUSED += "|/google/protobuf/|/pycparser/"
"""Files that no agent imports: to compile them would double the time that compiling takes."""
_FIND_PIP = """
try:
    import ensurepip, glob, os, sysconfig
    places = (sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"))
    print(*[wheel for place in places if place for wheel in glob.glob(os.path.join(place, "pip-*.whl"))][:1])
except ImportError:
    pass
"""
"""The wheel of pip that Python brings for new environments; it runs as it is. Debian without python3-venv has none."""

_INSTALL = r"""
set -eu
umask 022
export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
env=$1 wheels=$2 source=$3 python=$4
new=$env.part
shift 4
mkdir -p "${env%/*}"
exec 9> "${env%/*}/.lock" && flock 9   # what a cut link left running may yet complete it
if [ -e "$env/bin/python" ]; then exit 0; fi
rm -rf "$new"
end() {
    status=$?
    free=$(df -Pk "${env%/*}" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
    # Not every program that failed of a full disk says so.
    [ "$status" -eq 0 ] || [ "${free:-1024}" -ge 1024 ] || echo "No space left on device" >&2
    rm -rf "$new"
    exit "$status"
}
trap end EXIT
"$python" -m venv --without-pip "$new"   # nothing will be added to it: pip would be 2,000 files for nobody
bundled=$("$python" -I -c "$find_pip")
if [ -n "$bundled" ]; then
    pip() { "$new/bin/python" "$bundled/pip" "$@"; }
else                                    # the machine's own pip installs into it
    pip() { "$python" -m pip --python "$new/bin/python" "$@"; }
fi
mkdir "$new/tmp"
TMPDIR=$new/tmp HOME=$new/tmp          # what programs leave in a home goes with it
export TMPDIR HOME
[ "$source" = index ] || set -- --no-index "$@"
pip install -q --no-cache-dir --no-compile --find-links "$wheels" "$@"
"$new/bin/python" -m compileall -q -x "$unused" -s "$new" -p "$env" "$new/lib" > /dev/null || :
"$new/bin/python" -I -c 'import edgectl_agent.runtime'
rm -rf "$new/tmp"
for file in "$new"/bin/*; do
    [ -L "$file" ] || sed -i "1s|^#!$new/|#!$env/|" "$file"
done
sync
mv -T "$new" "$env"
"""

SCRIPT = f"unused={words(_UNUSED)}\nfind_pip={words(_FIND_PIP)}\n{_INSTALL}"
"""ENVIRONMENT WHEELS index|wheels PYTHON PIP-ARGUMENT…: scripts name their interpreter by its final path."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is to be installed."""

    version: str
    """Of the agent."""
    agent: Path
    """Its wheel."""
    wheels: tuple[Path, ...] = ()
    """Of everything else that it needs; none: from the node's package index."""
    constraints: bytes = b""
    """Versions that the index is asked for."""
    extras: tuple[str, ...] = ()
    """Of the agent, to be asked of the index."""

    @cached_property
    def sha256(self) -> str:
        """Of the names and contents of all that is installed, as far as it is known here."""
        total = hashlib.sha256(self.constraints if not self.wheels else b"")
        for wheel in sorted((self.agent, *self.wheels), key=lambda path: path.name):
            total.update(f"{wheel.name} {_digest(wheel, wheel.stat().st_mtime_ns)}\n".encode())
        if self.extras and not self.wheels:
            total.update(f"{','.join(self.extras)}\n".encode())
        return total.hexdigest()

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.version}-{self.sha256[:8]}"

    @property
    def size(self) -> int:
        """Bytes to upload."""
        return sum(wheel.stat().st_size for wheel in (self.agent, *self.wheels))


@lru_cache(maxsize=1024)
def _digest(wheel: Path, changed_ns: int) -> str:
    """A fleet shares its wheels: each is read once."""
    del changed_ns
    with wheel.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path(layout: Layout, name: str) -> str:
    """Where the environment of that name lies."""
    return f"{layout.home}/venvs/{name}"


def wheels(layout: Layout) -> str:
    """Where uploaded wheels lie; they stay, so that the next version uploads only what is new."""
    return f"{layout.home}/wheels"


def present(host: Host, layout: Layout) -> tuple[str, ...]:
    """Names of the whole environments. Raises as `Host.run`."""
    done = host.run(f"cd {words(layout.home)}/venvs 2> /dev/null && ls -d */bin/{AGENT}", root=layout.root)
    return tuple(line.split("/")[0] for line in done.text.splitlines() if not line.split("/")[0].endswith(".part"))


def install(host: Host, layout: Layout, wanted: Environment, python: str = "python3", told: Told | None = None) -> None:
    """Upload the wheels and make the environment, unless it is there.

    Raises:
        StorageError: the machine's disk is full or read-only.
        RemoteRefused: pip says why not; or root is not to be had.
        NodeUnreachable: the link broke; a rerun completes it.
    """
    folder = wheels(layout)
    for wheel in (wanted.agent, *wanted.wheels):
        host.write(f"{folder}/{wheel.name}", wheel, root=layout.root, told=told)
    constraints = f"{layout.home}/constraints.txt"
    host.write(constraints, wanted.constraints, root=layout.root)
    pip = ["-c", constraints] if wanted.constraints and not wanted.wheels else []
    names = [f"{folder}/{wheel.name}" for wheel in (wanted.agent, *wanted.wheels)]
    if wanted.extras and not wanted.wheels:
        names[0] += f"[{','.join(wanted.extras)}]"
    target, source = path(layout, wanted.name), "wheels" if wanted.wheels else "index"
    done = host.run(
        f"set -- {words(target, folder, source, python, *pip, *names)}\n{SCRIPT}", root=layout.root, timeout_s=INSTALL_S
    )
    if done.status:
        raise _failed(host, layout, wanted, done)


def prune(host: Host, layout: Layout, keep: Sequence[str], progress: Callable[[str], None] = lambda name: None) -> None:
    """Delete all environments but those named in `keep`, and half-made ones. Raises as `Host.run`."""
    rest = " ".join(f"! -name {words(name)}" for name in keep)
    done = host.run(
        f"cd {words(layout.home)}/venvs 2> /dev/null || exit 0\n"
        f"find . -mindepth 1 -maxdepth 1 ! -name .lock {rest} -print -exec rm -rf {{}} +",
        root=layout.root,
        timeout_s=INSTALL_S,
    )
    for name in done.text.splitlines():
        progress(name.removeprefix("./"))


def _failed(host: Host, layout: Layout, wanted: Environment, done: Done) -> StorageError | RemoteRefused:
    said = (done.err or done.out).decode(errors="replace")
    where = f"node {host.name}: the environment of agent {wanted.version}"
    if "No space left" in said:
        return StorageError(
            f"{where} does not fit: the disk that holds {layout.home} is full",
            hint=f"make room on {host.name}, then repeat",
        )
    if "Read-only file system" in said:
        return StorageError(f"{where} cannot be made: {layout.home} is on a read-only file system")
    errors = [line.strip() for line in said.splitlines() if line.startswith(("ERROR:", "Error:"))]
    why = (errors or [done.complaint])[-1].removeprefix("ERROR: ")
    if "No matching distribution" in why:
        hint = "edgectl wheelhouse build, then --wheelhouse DIR" if not wanted.wheels else "edgectl wheelhouse build"
        return RemoteRefused(f"{where} cannot be made: {why}", status=424, hint=hint, reason="packages")
    return RemoteRefused(f"{where} cannot be made: {why}", status=424, reason="packages")
