"""The Python half of the `modal` command: imports the user's module and drives the engine that started this process."""
