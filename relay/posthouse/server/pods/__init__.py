"""The Kubernetes cluster around a member that runs in a pod: its Lease, its events, and the ends of containers."""

from posthouse.server.pods.pod import NoCluster, Pod

__all__ = ["NoCluster", "Pod"]
