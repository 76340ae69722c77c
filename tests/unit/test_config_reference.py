"""What is written about the settings is true: the reference, the page in docs/, what `config show` prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from posthouse.config import FIELDS, Config, hidden_password, load, markdown, redacted, reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posthouse.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ}
    )


def test_the_reference_is_a_file_that_parses_back_to_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "reference.toml"
    file.write_text(reference())
    assert load(file) == Config()


def test_the_reference_explains_every_setting() -> None:
    text = " ".join(line.removeprefix("# ") for line in reference().splitlines())
    for field in FIELDS.values():
        assert field.setting.about in text
        assert field.setting.why in text
        assert field.variable in text
    assert max(len(line) for line in reference().splitlines()) <= 110


def test_the_page_in_docs_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run `make docs`"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///posthouse.db", "sqlite:///posthouse.db"),
        ("sqlite:////var/lib/a@b.db", "sqlite:////var/lib/a@b.db"),
        ("sqlite://user:s3cret@host/a.db", "sqlite://user:***@host/a.db"),
        ("memory:", "memory:"),
        ("postgresql://user:s3cret@host:5432/db", "postgresql://user:***@host:5432/db"),
        (
            "postgresql://user:s3c@ret@host/db?sslmode=require",
            "postgresql://user:***@host/db?sslmode=require",
        ),
        ("postgresql://user@host/db?password=s3cret&a=b", "postgresql://user@host/db?password=***&a=b"),
        ("postgresql://host/db?sslpassword=s3cret", "postgresql://host/db?sslpassword=***"),
        ("postgresql://user:s3/cret@host/db", "***"),
        ("postgresql://[user:s3cret@host/db", "***"),
    ],
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert hidden_password(url) == shown


def test_a_configuration_is_shown_without_its_passwords() -> None:
    config = Config()
    object.__setattr__(config.store, "url", "postgresql://user:s3cret@host/db")
    assert redacted(config)["store"]["url"] == "postgresql://user:***@host/db"
    assert "s3cret" not in json.dumps(redacted(config))
    assert set(redacted(config)) == {field.section for field in FIELDS.values()}


def test_a_refused_store_url_does_not_show_its_password() -> None:
    done = run("config", "check", POSTHOUSE_STORE_URL="mysql://user:s3cret@host/db")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("posthouse: POSTHOUSE_STORE_URL: 'mysql://user:***@host/db' is not a store")
    assert done.stderr.count("\n") == 1


def test_check_says_yes_or_names_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_text("[limits]\nmax_window = 512\n")
    done = run("config", "check", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "configuration ok\n", "")
    file.write_text("[limits]\nmax_window = -1\n")
    done = run("config", "check", POSTHOUSE_CONFIG=str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"posthouse: {file}: limits.max_window: -1 is too small; allowed: an integer from 1"
    )


def test_show_prints_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_text("[limits]\nmax_window = 512\n")
    done = run("config", "show", "--config", str(file), POSTHOUSE_LOG_LEVEL="debug")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "max_window = 512  # from the file" in lines
    assert 'level = "debug"  # from the environment' in lines
    assert "default_window = 256" in lines
    again = tmp_path / "again.toml"
    again.write_text(done.stdout)
    assert load(again) == load(file, {"POSTHOUSE_LOG_LEVEL": "debug"})


def test_reference_prints_both_forms() -> None:
    assert run("config", "reference").stdout == reference()
    assert run("config", "reference", "--format", "markdown").stdout == markdown()


def test_wrong_usage_ends_with_2_and_no_traceback() -> None:
    for arguments in (["nonsense"], ["config", "nonsense"], ["config", "check", "--nonsense"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Error: No such" in done.stderr
        assert "Traceback" not in done.stderr
