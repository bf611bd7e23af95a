"""Real proxies on loopback: nginx, and the proxy of LiteLLM."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex

from .servers import Server

ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "a-token-of-enough-characters"
LITELLM = ROOT / ".venv-litellm" / "bin" / "uvicorn"  # made by `make .venv/litellm-ready`


def nginx_server(folder: Path, site: str) -> Server:
    """Return an nginx in one process.

    Args:
        folder: Where it may write.
        site: Its server block, with `listen 80`, which becomes the port of the server.
    """
    server = Server(["nginx", "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"], folder)
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in temporary)
    head = f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
    site = site.replace("listen 80;", f"listen 127.0.0.1:{server.port};")
    http = f"http {{\naccess_log off;\n{paths}{site}\n}}\n"
    (folder / "nginx.conf").write_text(f"{head}events {{}}\n{http}")
    return server


def litellm_server(folder: Path, app: str, vendor: str) -> Server:
    """Return LiteLLM's proxy as `app`, such as `module:app`, in an environment of its own.

    Args:
        folder: Where it may write.
        app: The application, in a module of the examples or of `tests/litellm`.
        vendor: URL of the vendor behind it.
    """
    modules = [ROOT, ROOT / "examples", ROOT / "tests" / "litellm"]
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, modules)),
        "CONFIG_FILE_PATH": str(ROOT / "tests" / "litellm" / "config.yaml"),
        "OPENAI_URL": f"{vendor}/v1",
        "ANTHROPIC_URL": vendor,
        "LITELLM_MASTER_KEY": f"sk-{token_hex(32)}",
        "TOKENPULSE_LOG_LEVEL": "INFO",
        "TOKENPULSE_ADMIN_TOKEN": ADMIN_TOKEN,
        "TOKENPULSE_PRICE_LIST": "off",  # the costs are those that LiteLLM reports
        # Nothing is fetched from the Internet.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    }
    options = ["--port", "{port}", "--no-access-log"]
    return Server([str(LITELLM), app, *options], folder, environment)
