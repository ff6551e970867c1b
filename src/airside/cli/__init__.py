"""The command `airside`."""
