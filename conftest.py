"""What every test may use."""

pytest_plugins = ["api_common.testing.plugin"]
