"""Teachers: the model itself or its cache, giving the same records; and the stage that fills the cache."""

from tutelage.teacher.cached import CachedTeacher
from tutelage.teacher.live import LiveTeacher
from tutelage.teacher.signals import build_column
from tutelage.teacher.teach import TeachReport, teach

__all__ = ["CachedTeacher", "LiveTeacher", "TeachReport", "build_column", "teach"]
