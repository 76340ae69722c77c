"""`python -m bench cluster`: what clients notice when the members are pods of a real Kubernetes and something happens.

The tests on the cluster (`tests/cluster/`) run a few rounds of the same; the cluster itself is theirs (`testbed`).
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests" / "cluster"))
