"""What both sides need: the user's process and the container. It is on the way of every container's start."""

#: Where importable code of the user lives in a container.
SOURCE_ROOT = "/root"
