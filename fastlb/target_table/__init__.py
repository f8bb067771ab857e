"""The only bridge between the planes: the target table one way, the counters the other.

Both live in memfds, not in named shared memory: nothing appears in /dev/shm, nobody without the file
descriptor can open them, `multiprocessing`'s resource tracker never hears of them, and the kernel
frees them with the last process that holds them, however it died.
"""
