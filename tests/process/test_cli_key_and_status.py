"""`posthouse key` and `posthouse status`."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import one_line_error, posthouse
from posthouse.client import InvalidKeyFile, load_key
from posthouse.identity import DeviceKey, buckets_of_address
from relay_process import RelayProcess, free_port


def test_a_new_key_is_its_owners_alone_and_known_by_its_address(tmp_path: Path) -> None:
    file = tmp_path / "me.key"
    made = posthouse("key", "new", "--out", str(file))
    assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = load_key(file)
    assert made.stdout == f"{key.address}\n"
    shown = posthouse("key", "show", str(file)).stdout
    buckets = buckets_of_address(key.address)
    assert [line.split()[-1] for line in shown.splitlines()] == [*key.addresses, buckets.wide, buckets.narrow]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "me.key"
    file.write_text("precious")
    assert str(file) in one_line_error(posthouse("key", "new", "--out", str(file)))
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    "content", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_a_key_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "me.key"
    file.write_text(content)
    assert str(file) in one_line_error(posthouse("key", "show", str(file)))


def test_keys_are_the_ones_that_other_programs_write(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file = tmp_path / "other.key"
    own = ed25519.Ed25519PrivateKey.generate()
    file.write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert load_key(file).address == DeviceKey(own.private_bytes_raw()).address
    curve = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InvalidKeyFile, match="another kind"):
        load_key(file)


def test_status_tells_what_the_relay_does(relay: RelayProcess) -> None:
    human = posthouse("status", "--url", relay.metrics_url)
    assert (human.returncode, human.stderr) == (0, "")
    fields = dict(line.split(None, 1) for line in human.stdout.splitlines())
    assert fields["role"] == "active" and int(fields["epoch"]) >= 1 and fields["since"].endswith("UTC")
    document = json.loads(posthouse("status", "--url", relay.metrics_url, "--json").stdout)
    assert document["role"] == "active" and document["members"]


def test_status_without_a_relay_is_one_line(relay: RelayProcess) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert (
        one_line_error(posthouse("status", "--url", nobody)) == f"no status from {nobody}: Connection refused"
    )
    assert "HTTP" in one_line_error(posthouse("status", "--url", f"http://127.0.0.1:{relay.port}"))
    assert "http://HOST:PORT" in one_line_error(posthouse("status", "--url", "ftp://x"))


def test_importing_posthouse_imports_nothing_heavy() -> None:
    code = "import sys, posthouse; print(sorted({'msgspec', 'websockets', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
