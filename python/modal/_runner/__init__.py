"""The container: executes inputs. Starts within a cold container's time, so it imports no more than it needs."""
