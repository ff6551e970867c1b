"""The agents that come with Airside, one file each, loaded by entry point like anybody's."""
