"""Several worker processes count into one folder, and a scrape of any of them adds all up."""

from .reader import Workers
from .tables import WorkerTables
from .writer import WorkerFiles

__all__ = ["WorkerFiles", "WorkerTables", "Workers"]
