"""What the runbook tells to type at a cluster: commands, flags, kinds, labels and names that the chart really makes."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.helm.release import CHART, ENVIRONMENTS, ROOT, Release, merge, values_of

PAGE: Final = (ROOT / "docs" / "runbook.md").read_text()
_PRE: Final = re.findall(r"^ {4,}(kubectl (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
_IN_TEXT: Final = re.findall(r"`(kubectl [^`]+)`", PAGE)
FLAGS: Final[Mapping[str, set[str]]] = {
    "create secret generic": {"--from-literal", "--from-file"},
    "create priorityclass": {"--value", "--description"},
    "debug": set(),
    "delete": set(),
    "describe": set(),
    "exec": set(),
    "get": {"-l", "--raw"},
    "logs": {"-l", "--since"},
    "scale": {"--replicas"},
    "wait": {"--for", "-l", "--timeout"},
}
"""What of kubectl the page may use, by command; a new one is looked up with `kubectl help` first."""
WITH_A_VALUE: Final = {"-n", "-l", "--raw"}
"""Flags that stand before their values; the others are written with `=`."""
KINDS: Final = {"pod", "pods", "deployment", "events", "certificate"}
ANYWHERE: Final = {"create priorityclass", "exec"}
"""What has no namespace, or is cut short on the page."""


@dataclass(frozen=True)
class Command:
    """One call of kubectl."""

    text: str
    verb: str
    words: tuple[str, ...]
    """Without the verb and the flags."""
    flags: Mapping[str, str]


def parsed(text: str) -> Command:
    """Takes a command apart.

    Raises:
        AssertionError: it uses something that the page does not use so far.
    """
    joined = text.replace("\\\n", " ").partition(" | ")[0].partition('="$(')[0]
    words, flags = [], {}
    left = iter(shlex.split(joined)[1:])
    for word in left:
        if word == "--":
            break
        if not word.startswith("-"):
            words.append(word)
        elif word in WITH_A_VALUE:
            flags[word] = next(left)
        else:
            name, _, value = word.partition("=")
            flags[name] = f"{flags[name]} {value}" if name in flags else value
    line = " ".join(words)
    verb = next((verb for verb in FLAGS if f"{line} ".startswith(f"{verb} ")), None)
    assert verb, f"{text!r}: no command of kubectl that is known here"
    assert set(flags) - {"-n"} <= FLAGS[verb], f"{text!r}: {set(flags) - FLAGS[verb]}"
    return Command(text, verb, tuple(words[len(verb.split()) :]), flags)


COMMANDS: Final = [*map(parsed, _PRE), *map(parsed, _IN_TEXT)]


@pytest.fixture(scope="module")
def releases() -> list[Release]:
    """Everything that the chart can make: each example, and all of it with shared limits."""
    shared = values_of("production")
    limits = {"edge": {"sharedLimits": {"enabled": True, "store": {"address": "store:6379"}}}}
    return [*(Release(values_of(name)) for name in ENVIRONMENTS), Release(merge(shared, limits))]


def everything(releases: list[Release]) -> Iterator[dict[str, Any]]:
    for release in releases:
        yield from release.objects


def test_commands_name_a_namespace_and_kinds() -> None:
    assert len(COMMANDS) >= 15
    for one in COMMANDS:
        assert one.verb in ANYWHERE or "--raw" in one.flags or one.text in _IN_TEXT or one.flags["-n"] == "NS", one.text
        if one.verb in {"get", "delete", "describe", "scale", "wait"} and "--raw" not in one.flags:
            assert set(one.words[0].split(",")) <= KINDS, one.text


def test_labels_select_pods(releases: list[Release]) -> None:
    labels = [pod["metadata"]["labels"] for release in releases for _, pod in release.pods()]
    for one in COMMANDS:
        if selector := one.flags.get("-l"):
            name, _, value = selector.partition("=")
            assert any(of.get(name) == value for of in labels), one.text


def test_names_are_those_that_the_chart_gives(releases: list[Release]) -> None:
    names = {one["metadata"]["name"] for one in everything(releases)}
    said = set(re.findall(r"\bR-[a-z-]+", PAGE))
    assert said
    assert {one for one in said if one.replace("R-", "demo-", 1) not in names} == set()
    deployments = {name for release in releases for name in names_of(release, "Deployment")}
    scaled = [one.words[1] for one in COMMANDS if one.verb == "scale"]
    assert scaled
    assert {name for name in scaled if name.replace("R-", "demo-", 1) not in deployments} == set()


def names_of(release: Release, kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in release.of_kind(kind).values()}


def test_secrets_are_those_that_pods_read(production: Release) -> None:
    text = str([pod for _, pod in production.pods()])
    made = {one.words[0]: one.flags for one in COMMANDS if one.verb == "create secret generic"}
    assert len(made) >= 3
    for name, flags in made.items():
        assert f"'{name}'" in text, name
        for key in re.findall(r"(?:^| )([a-z-]+)(?==|$)", flags.get("--from-literal", "")):
            assert f"'key': '{key}'" in text, (name, key)


def test_files_of_helm_commands_are_there() -> None:
    named = re.findall(r"-f (helm/\S+\.yaml)", PAGE)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert f"R {CHART.relative_to(ROOT)} -n NS" in PAGE
