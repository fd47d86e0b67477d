"""A call of every public function of the statistics, and the values with which each must be refused."""

from __future__ import annotations

from helpers.attacks_on_energy import ON_ENERGY
from helpers.attacks_on_evidence import ON_EVIDENCE
from helpers.attacks_on_plans import ON_PLANS
from helpers.attacks_on_reach import ON_REACH

ATTACKS = [*ON_REACH, *ON_EVIDENCE, *ON_PLANS, *ON_ENERGY]
