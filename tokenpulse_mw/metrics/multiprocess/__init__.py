"""Multiprocess mode: workers count in files of one folder, and a scrape merges all of them."""

from .reader import Workers
from .slots import folder_variable
from .tables import WorkerTables
from .writer import WorkerFiles

__all__ = ["WorkerFiles", "WorkerTables", "Workers", "folder_variable"]
