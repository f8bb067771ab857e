"""What tests are made of: real processes, scripted sockets, a load client, and waiting for conditions.

Everything here cleans up by pid, process group or context manager, and waits with a deadline.
"""
