"""The demo: a small app that says which worker answered.

Knows nothing of the balancer in front of it; `fastlb demo` and the tests bring the two together.
"""
