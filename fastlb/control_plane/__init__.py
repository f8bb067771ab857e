"""What runs in the supervisor: processes, sockets, health, and the one writer of the target table.

Never on a request's way: where the supervisor dies, the workers serve on with the last table.
"""
