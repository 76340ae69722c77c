"""Measure posthouse beside mosquitto and NATS JetStream on one machine; see README.md in this folder."""
