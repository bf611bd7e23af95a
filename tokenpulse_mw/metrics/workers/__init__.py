"""Several worker processes count into one folder, and a scrape of any of them adds all up."""

from .files import WorkerFiles
from .tables import WorkerTables
from .workers import Workers

__all__ = ["WorkerFiles", "WorkerTables", "Workers"]
