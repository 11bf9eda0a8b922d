"""The networks, their packages and what runs them: torch, and no Ray."""
