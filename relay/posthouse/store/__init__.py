"""Where messages are kept: one interface, an engine a module. Every write carries the epoch."""
