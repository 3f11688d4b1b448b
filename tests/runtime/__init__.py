"""The tests of `runtime`, which run it where it lies, on real brokers."""
