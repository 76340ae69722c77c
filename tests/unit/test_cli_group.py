"""The command line as a whole: quick to start, one line for an error, exit codes that scripts can rely on."""

import subprocess
import sys
from types import ModuleType

import click
import pytest
from posthouse.cli import COMMANDS, main
from posthouse.errors import PosthouseError


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def run_command(body: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that does this, standing in for `status`."""

    @click.command()
    def command() -> object:
        if isinstance(body, BaseException):
            raise body
        return body

    module = ModuleType("posthouse.cli.status")
    module.__dict__["command"] = command
    monkeypatch.setitem(sys.modules, "posthouse.cli.status", module)
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_overview_lists_every_command_and_imports_none() -> None:
    done = run_python(
        "import sys, posthouse.cli\n"
        "try: posthouse.cli.main(['--help'])\n"
        "finally: print([name for name in sys.modules if name.startswith('posthouse.')])"
    )
    assert done.returncode == 0, done.stderr
    overview, modules = done.stdout.rsplit("\n", 2)[:2]
    for name in COMMANDS:
        assert f"\n  {name} " in overview
    assert modules == "['posthouse.cli', 'posthouse.errors']" or "posthouse.cli." not in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run_python(f"import posthouse.cli; posthouse.cli.main([{name!r}, '--help'])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: posthouse {name}")


def test_an_error_of_the_project_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(PosthouseError("no relay answers at ws://127.0.0.1:1"), monkeypatch) == 1
    assert capsys.readouterr() == ("", "posthouse: no relay answers at ws://127.0.0.1:1\n")


def test_a_command_may_say_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(None, monkeypatch) == 0
    assert run_command(3, monkeypatch) == 3


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(KeyboardInterrupt(), monkeypatch) == 130


def test_output_that_nobody_reads_is_no_traceback() -> None:
    script = f"{sys.executable} -m posthouse.cli config reference | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
