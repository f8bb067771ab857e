"""Bytes on the wire, in files: what fastlb must do with each, from both sides.

`requests/` are sent by a client, `responses/` by a target. `corpus.py` says how a file is written.
"""
