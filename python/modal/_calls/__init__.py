"""Calls of functions and their results: in the user's process, and in a container from its first call on."""
