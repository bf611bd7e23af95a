"""Key functions: from the scope of a request to the key that it is counted under."""

from .annotation import annotation
from .client_address import client_address
from .combine import combine
from .header import header
from .model import model
from .readable import readable
from .route import route

__all__ = ["annotation", "client_address", "combine", "header", "model", "readable", "route"]
