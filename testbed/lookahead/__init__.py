"""Lookahead: search over the environment while an attempt is under way, as an arm like any other.

`BestOf` samples the model until a check accepts an answer; `Tree` tries moves on clones of the environment's game. Both
are episodes: whoever drives one asks the model for the next message as ever, and only which conversation that message
continues differs. So everything is metered, limited and written down by what meters every attempt.

"""

from testbed.lookahead.settings import BestOf, Lookahead, Tree, read_lookahead

__all__ = ["BestOf", "Lookahead", "Tree", "read_lookahead"]
