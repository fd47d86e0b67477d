"""A testbed that tells capability elicitation from capability creation.

Importing it makes its environments known to Gymnasium, so that ``gymnasium.make("testbed:testbed/Multiplication-v0")``
works; nothing heavy is loaded.
"""

from testbed.gymnasium_hook import register_when_loaded

__version__ = "0.1.0"

register_when_loaded()
