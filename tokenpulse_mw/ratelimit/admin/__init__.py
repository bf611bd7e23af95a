"""Endpoints that list limits and their keys, and change them at run time."""

from .keys import KeepBlock
from .limits import KeepLimit
from .routes import limit_routes
from .schemas import LimitBody

__all__ = ["KeepBlock", "KeepLimit", "LimitBody", "limit_routes"]
