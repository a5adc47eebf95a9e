"""The product on a real cluster: ``make test-cluster`` (docs/install.md says what it takes)."""
