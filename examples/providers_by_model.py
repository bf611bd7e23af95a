"""One endpoint for the models of several vendors: the model of the response names the vendor.

Run it:

    uvicorn providers_by_model:app

    curl -X POST http://127.0.0.1:8000/v1/chat/completions -d '{"model": "claude-sonnet-4"}'
    curl -X POST http://127.0.0.1:8000/v1/chat/completions -d '{"model": "qwen3-8b-acme"}'
    curl http://127.0.0.1:8000/metrics | grep tokenpulse_llm_tokens_total
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tokenpulse_mw import TokenPulse, annotate


async def chat(request: Request) -> JSONResponse:
    """Respond as an OpenAI-compatible proxy does; replace this with yours."""
    model = (await request.json())["model"]
    if model not in MODELS:
        # An error names no model: with the one that was requested, it counts for its provider.
        annotate(request, model=model)
        return JSONResponse({"error": {"message": "upstream failed"}}, status_code=502)
    message = {"role": "assistant", "content": "Hello"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    return JSONResponse({"model": model, "choices": [{"message": message}], "usage": usage})


MODELS = ("gpt-4o", "claude-sonnet-4", "qwen3-8b-acme")

app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
TokenPulse(
    service="providers-by-model",
    # The models of OpenAI and Anthropic are known; those of the local server are listed.
    providers={"openai": [], "anthropic": [], "local": ["qwen3-*-acme", "llama3*"]},
).install(app)
