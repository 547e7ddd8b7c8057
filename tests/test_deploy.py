"""Dockerfile, docker-compose.yml and Makefile, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from thanoproxy.config import Settings

ROOT = Path(__file__).resolve().parents[1]
PROXIES = ("thanoproxy", "thanoproxy-cpu")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined and comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line for line in re.sub(r"\\\n", " ", kept).splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_build_sees_what_the_wheel_is_made_of_and_nothing_else() -> None:
    """`COPY . .` takes what .dockerignore lets through: a list of names, to which pyproject.toml's own must belong."""
    assert arguments("COPY") == [". ."]
    ignored, *rules = (line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    assert ignored == "*"
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, build = described["project"], described["tool"]["hatch"]["build"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *build["targets"]["wheel"]["packages"]}
    hooks = {**build.get("hooks", {}), **build["targets"]["wheel"].get("hooks", {})}
    needed |= {hook.get("path", "hatch_build.py") for name, hook in hooks.items() if name == "custom"}
    assert all((ROOT / name).exists() for name in needed)
    assert (
        {f"!{name}" for name in needed}
        <= {rule for rule in rules if rule.startswith("!")}
        <= {f"!{name}" for name in needed | {"hatch_build.py"}}
    )


def test_the_image_runs_as_an_ordinary_user() -> None:
    """... from the last USER on, and nothing is installed after it."""
    words = [word for word, _ in instructions()]
    assert arguments("USER") == ["thanoproxy"]
    assert "FROM" not in words[words.index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(words[words.index("USER") :])
    created = next(rest for rest in arguments("RUN") if "useradd" in rest)
    assert re.search(r"--uid (\d+)", created)[1] != "0"  # type: ignore[index]


def test_the_image_serves_the_default_port() -> None:
    port = Settings().server.port
    assert arguments("EXPOSE") == [str(port)]
    command = json.loads(arguments("CMD")[0])
    assert command[command.index("--listen") + 1] == f"0.0.0.0:{port}"
    assert f"'127.0.0.1', {port}" in arguments("HEALTHCHECK")[0]


def test_the_command_is_one_that_the_program_takes() -> None:
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["thanoproxy"]
    command, *flags = json.loads(arguments("CMD")[0])
    code = "import sys; from thanoproxy.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {flag for flag in flags if flag.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_the_health_check_is_python_that_runs() -> None:
    """Against a closed port it fails; a live server is asked in tests/notebook and by the probe's own users."""
    _, _, probe = arguments("HEALTHCHECK")[0].partition("CMD ")
    word, flag, code = json.loads(probe)
    assert (word, flag) == ("python", "-c")
    closed = code.replace("7432", "1")
    done = subprocess.run([sys.executable, "-c", closed], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


def test_the_dependency_layer_names_every_dependency() -> None:
    step = next(rest for rest in arguments("RUN") if "tomllib" in rest)
    code = re.search(r'python -c "(.*?)" >', step)
    assert code is not None
    here = code[1].replace("/src/pyproject.toml", str(ROOT / "pyproject.toml"))
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert done.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["remote"]]


def test_passwords_come_from_outside() -> None:
    services = compose()["services"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    for service in PROXIES:
        url = services[service]["environment"]["THANOPROXY_UPSTREAM__URL"]
        assert url.startswith("postgresql://postgres:${POSTGRES_PASSWORD:?")
    assert "password" not in (ROOT / "Dockerfile").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("service", PROXIES)
def test_a_proxy_waits_for_postgresql(service: str) -> None:
    described = compose()["services"][service]
    assert described["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in compose()["services"]["postgres"]
    assert described["ports"] == ["127.0.0.1:7432:7432"]


@pytest.mark.parametrize("service", PROXIES)
def test_a_proxy_is_told_what_the_image_expects(service: str) -> None:
    """Settings that exist, and volumes where the image's command and its data folder look for them."""
    described = compose()["services"][service]
    for variable in described["environment"]:
        section, name = variable.removeprefix("THANOPROXY_").lower().split("__")
        assert hasattr(getattr(Settings(), section), name)
    targets = {re.sub(r"\$\{[^}]*\}", "", volume).split(":")[1] for volume in described["volumes"]}
    command = json.loads(arguments("CMD")[0])
    assert targets == {
        arguments("VOLUME")[0],
        command[command.index("--image-root") + 1],
        command[command.index("--weights-root") + 1],
    }


def test_one_profile_has_the_gpu_and_the_other_does_without() -> None:
    services = compose()["services"]
    assert services["thanoproxy"]["profiles"] == ["gpu"]
    assert services["thanoproxy-cpu"]["profiles"] == ["cpu"]
    (device,) = services["thanoproxy"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["thanoproxy-cpu"]


def test_named_volumes_are_declared() -> None:
    described = compose()
    used = {volume.split(":")[0] for service in described["services"].values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith("$")} == set(described["volumes"])


@pytest.mark.parametrize("name", ["relay", "predict", "build"])
def test_a_benchmark_runs_or_says_that_it_is_not_there(name: str) -> None:
    module = ROOT / "tests" / "bench" / f"{name}.py"
    done = subprocess.run(["make", "--dry-run", f"bench-{name}"], capture_output=True, text=True, check=False, cwd=ROOT)
    if module.exists():
        assert f"-m tests.bench.{name}" in done.stdout
    else:
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1
        assert f"no benchmark tests/bench/{name}.py" in done.stderr


def test_ci_ends_with_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == "make test"
    assert "$ make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
