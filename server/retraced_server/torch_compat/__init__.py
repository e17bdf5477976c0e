"""The private names of torch that retraced needs, and nothing else. Checked with torch 2.13.0; `make check` finds such names elsewhere.

One file a subject; what differs between versions of torch is decided here. It imports nothing else of retraced.
"""
