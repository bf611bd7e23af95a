"""Who is asking: functions from a request to what its limit is counted under."""

from .annotated import annotated
from .client import client_address
from .header import header
from .join import join
from .route import route

__all__ = ["annotated", "client_address", "header", "join", "route"]
