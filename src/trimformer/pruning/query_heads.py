"""Query heads as units where sizes ask for them: which of each key/value head's go together, by their worth."""

from __future__ import annotations

from trimformer import processes
from trimformer.model.query_heads import one_by_one
from trimformer.model.slots import are_grouped, order_query_heads, read_by_slot
from trimformer.model.structure import Structure, read_structure
from trimformer.observing.calibration import Calibration
from trimformer.pruning.budget import CostTables
from trimformer.pruning.contract import Job, JudgesUnits
from trimformer.pruning.sizes import Sizes
