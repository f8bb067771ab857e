"""fastlb: a TCP/HTTP load balancer with built-in auto scaling for one Linux host."""

__version__ = "0.1.0"
