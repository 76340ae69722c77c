"""The command line of the test cluster."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from testbed import build, choice, cluster, containers, images, places
from testbed.commands import ClusterError


def _up(with_image: bool) -> None:
    name = choice.chosen() or choice.fitting()
    if name is None:
        cluster.check_machine()
        programs, pause = build.programs(), images.pause_image(places.cache())
        began = time.monotonic()
        made = cluster.up(programs, pause)
        what = f"up after {time.monotonic() - began:.1f} s" if made else "up already"
    else:
        if choice.chosen() is None:
            choice.create(name)
        what = f"up ({name}; only our own has faults)"
    print(f"testbed: the cluster is {what}: KUBECONFIG={places.kubeconfig()}")
    if with_image and name == choice.GIVEN:
        print(f"testbed: {images.RELAY} must be loaded there by hand")
    elif with_image:
        _load(images.relay_image(places.cache()))


def _load(archive: Path) -> None:
    if not archive.is_file():
        raise ClusterError(f"{archive}: no such file")
    name = choice.chosen()
    if name is not None:
        choice.load(name, archive)
    elif cluster.is_up():
        containers.load(archive)
    else:
        raise ClusterError("no cluster is up")
    print(f"testbed: {archive} is on each node")


def _down() -> None:
    name = choice.chosen()
    if name is not None:
        choice.delete(name)
    else:
        cluster.down()


def _status() -> None:
    if choice.chosen() is None and not cluster.healthy():
        raise ClusterError("no healthy cluster is up")
    print(places.kubeconfig())


def main() -> int:
    """Run one command; 1 and a line on stderr if it fails."""
    parser = argparse.ArgumentParser(prog="testbed", description="A real Kubernetes for the tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser(
        "up", help="build, start, load the image of the relay; what is done is not done again"
    )
    up.add_argument("--no-image", action="store_true", help="without the image of the relay")
    load = commands.add_parser("load", help="give an image archive to each node")
    load.add_argument("archive", type=Path)
    commands.add_parser("down", help="remove the cluster; what was built and the logs stay")
    commands.add_parser("status", help="print the kubeconfig of a healthy cluster")
    commands.add_parser("build", help="compile the programs and print their folder")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                _up(not arguments.no_image)
            case "load":
                _load(arguments.archive)
            case "down":
                _down()
            case "status":
                _status()
            case "build":
                print(build.programs())
    except ClusterError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
