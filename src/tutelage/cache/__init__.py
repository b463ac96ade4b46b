"""The teacher cache: a teacher is run once, and what it said is kept, addressed by its token ids."""

from tutelage.cache.class_scores import ClassScoresColumn
from tutelage.cache.column import Column
from tutelage.cache.columns import COLUMNS, column_from_spec
from tutelage.cache.final_hidden import FinalHiddenColumn
from tutelage.cache.find import find_column
from tutelage.cache.fixed import FixedColumn
from tutelage.cache.hidden import HiddenColumn, PooledColumn
from tutelage.cache.read import CacheReader, stored_columns
from tutelage.cache.report import bytes_per_position, covered_mass, require_covered_mass
from tutelage.cache.sampled import SampledColumn
from tutelage.cache.teacher_head import read_head, write_head
from tutelage.cache.topk import TopKColumn
from tutelage.cache.verify import cache_digest, verify_cache
from tutelage.cache.write import ShardWriter

__all__ = [
    "COLUMNS",
    "CacheReader",
    "ClassScoresColumn",
    "Column",
    "FinalHiddenColumn",
    "FixedColumn",
    "HiddenColumn",
    "PooledColumn",
    "SampledColumn",
    "ShardWriter",
    "TopKColumn",
    "bytes_per_position",
    "cache_digest",
    "column_from_spec",
    "covered_mass",
    "find_column",
    "read_head",
    "require_covered_mass",
    "stored_columns",
    "verify_cache",
    "write_head",
]
