"""The user's process: starts the engine and tells it what an app declares. Containers need none of it."""
