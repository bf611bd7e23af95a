"""CPU time of a uvicorn process for each request, beside bare FastAPI and peers."""
