"""API keys of some teams, which LiteLLM checks with `custom_auth`: a proxy without a database."""

from __future__ import annotations

from fastapi import HTTPException, Request
from litellm.proxy._types import UserAPIKeyAuth

TEAMS = {f"sk-{team}": team for team in ("acme", "globex", "initech", "hooli")}


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Return the key with its team.

    Raises:
        HTTPException: The key is unknown.
    """
    if api_key not in TEAMS:
        raise HTTPException(401, "unknown key")
    return UserAPIKeyAuth(api_key=api_key, team_id=TEAMS[api_key])
