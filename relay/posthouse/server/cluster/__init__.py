"""This process among the members of its relay: who is active, the links between them, where sessions are served."""

from posthouse.server.cluster.cluster import Cluster, HandoverRefused

__all__ = ["Cluster", "HandoverRefused"]
