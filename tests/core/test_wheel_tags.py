"""Which machines have wheels, and what the names of wheels say."""

from __future__ import annotations

import pytest

from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.wheels import GLIBC, PLATFORMS, Manifest, oldest_glibc, parse_platform, parse_python, platform_tags


@pytest.mark.parametrize(
    ("text", "platform"), [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64"), (" aarch64 ", "aarch64")]
)
def test_a_platform_is_known_by_its_usual_names(text: str, platform: str) -> None:
    assert parse_platform(text) == platform


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("armv7", "ONNX Runtime has no wheel for 32-bit ARM"),
        ("armhf", "ONNX Runtime has no wheel for 32-bit ARM"),
        ("i386", "ONNX Runtime has no wheel for 32-bit x86"),
        ("riscv64", "ONNX Runtime has no wheel for RISC-V"),
        ("x86_64-musl", "ONNX Runtime has no wheel for musl"),
        ("alpine", "ONNX Runtime has no wheel for musl"),
        ("vax", "no such platform is known"),
    ],
)
def test_a_platform_without_wheels_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_platform(text)


def test_python_is_a_version_that_the_agent_runs_on() -> None:
    assert parse_python("3.12.4") == (3, 12)
    with pytest.raises(UsageError, match=r"needs 3\.11 or newer, found 3\.9"):
        parse_python("3.9")
    with pytest.raises(UsageError, match="expected a version such as"):
        parse_python("python3")


def test_tags_go_back_from_the_oldest_supported_c_library_to_the_first_there_is() -> None:
    tags = platform_tags("aarch64")
    assert tags[0] == f"manylinux_2_{GLIBC[1]}_aarch64"
    assert tags[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")
    assert platform_tags("x86_64")[-2:] == ("manylinux_2_5_x86_64", "manylinux1_x86_64")


@pytest.mark.parametrize(
    ("name", "glibc"),
    [
        ("onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl", (2, 28)),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", (2, 27)),
        ("cffi-2.1.1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", (2, 17)),
        ("protobuf-7.36.2-1-cp310-abi3-manylinux2010_x86_64.whl", (2, 12)),
        ("tuf-7.0.1-py3-none-any.whl", None),
    ],
)
def test_a_wheels_name_says_the_oldest_c_library(name: str, glibc: tuple[int, int] | None) -> None:
    assert oldest_glibc(name) == glibc


@pytest.mark.parametrize("name", ["x.tar.gz", "a-1-cp311-cp311-musllinux_1_2_x86_64.whl", "a.whl"])
def test_what_does_not_run_on_linux_with_glibc_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        oldest_glibc(name)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_tag_that_is_asked_for_is_one_that_a_wheel_may_have(platform: str) -> None:
    for tag in platform_tags(parse_platform(platform)):
        oldest = oldest_glibc(f"a-1-cp311-cp311-{tag}.whl")
        assert oldest is not None
        assert oldest <= GLIBC


def test_a_wheelhouse_fits_machines_with_its_python_and_its_c_library_or_a_newer_one() -> None:
    made = Manifest(agent="0.1.0", platform="aarch64", python="3.11", glibc="2.28", constraints="", files=())
    assert made.fits("aarch64", (3, 11), (2, 36))
    assert made.fits("aarch64", (3, 11), (2, 28))
    assert not made.fits("aarch64", (3, 11), (2, 27))
    assert not made.fits("aarch64", (3, 12), (2, 36))
    assert not made.fits("x86_64", (3, 11), (2, 36))
