"""Attempts against the server: tasks, tools and graders are here, the agent is elsewhere."""
