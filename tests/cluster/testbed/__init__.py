"""A real Kubernetes for the tests, on this one machine: `python3 -m testbed up`, `down`, `load`, `status`.

Only the standard library is used, and programs of the system. Everything that lives lies in a cache folder outside the
clone. docs/testing.md says what it is for; `faults` is what tests and measurements do to it.
"""
