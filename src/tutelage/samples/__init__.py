"""The embedded default: a real model and real data from the ordinary package index."""

from tutelage.samples.data import sample_data
from tutelage.samples.home import cache_home
from tutelage.samples.specs import SAMPLES, SampleSpec, find_sample

__all__ = ["SAMPLES", "SampleSpec", "cache_home", "find_sample", "sample_data"]
