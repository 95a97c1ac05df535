"""The contract: generated code, descriptors, the check for breaking changes."""
