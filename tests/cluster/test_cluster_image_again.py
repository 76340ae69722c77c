"""The same inputs give the same image: built again from another folder, with other dates and rights, later."""

import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
from testbed import images, places

pytestmark = pytest.mark.timeout(1800)


def layers_of(archive: Path) -> list[str]:
    """Digests of the layers, contents and dates of each file included."""
    with tarfile.open(archive) as parts:

        def document(name: str) -> bytes:
            file = parts.extractfile(name)
            assert file is not None
            return file.read()

        config = json.loads(document(json.loads(document("manifest.json"))[0]["Config"]))
    layers: list[str] = config["rootfs"]["diff_ids"]
    return layers


@pytest.fixture
def name() -> Iterator[str]:
    """A name for an image that is gone afterwards."""
    name = f"localhost/posthouse-again:{uuid.uuid4().hex}"
    yield name
    subprocess.run(["buildah", "rmi", name], capture_output=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the image is made of, as another clone might have it."""
    for source in (images.ROOT / name for name in (*images.INPUTS, "Makefile")):
        if source.is_dir():
            shutil.copytree(source, tmp_path / source.name, copy_function=shutil.copyfile)
        elif source.exists():
            shutil.copyfile(source, tmp_path / source.name)
    for path in tmp_path.rglob("*"):
        path.chmod(0o775 if path.is_dir() else 0o664)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path


def test_the_same_inputs_give_the_same_layers(name: str, tree: Path, tmp_path: Path) -> None:
    reason = "whether images are reproducible is not tested: needs root, and buildah without docker"
    able = machine.is_root() and machine.runs("buildah", "--version") and not machine.runs("docker", "info")
    machine.need("buildah", able, reason)
    base = images.base_image(places.cache())
    first = layers_of(images.relay_image(places.cache()))
    settings = ["BUILDER=buildah", f"IMAGE={name}", f"PYTHON_IMAGE={base}", "REVISION=another"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": images.DATE, "PYTHONHASHSEED": "7"}
    subprocess.run(["make", "-C", str(tree), "image", *settings], env=environment, check=True)
    archive = tmp_path / "again.tar"
    subprocess.run(["buildah", "push", "--quiet", name, f"docker-archive:{archive}:{name}"], check=True)
    again = layers_of(archive)
    archive.unlink()
    assert len(first) >= 2
    assert again == first
