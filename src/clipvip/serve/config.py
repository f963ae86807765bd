"""What a server is told when it starts, and its limits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from clipvip.errors import UsageError
from clipvip.files import user_cache

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Addresses, safety and limits. Raises: UsageError for what would be unsafe.

    names: other host names under which the server is reached, as behind a proxy. token: what clients must know; needed
    for any address but loopback. requests_per_s: of one client, in the long run (0: no limit); burst: at once.
    examples: queries that the page proposes.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: tuple[str, ...] = ()
    allow_new_roots: bool = False
    cache: Path = field(default_factory=lambda: cache_folder("default"))
    cache_bytes: int = 4 << 30
    requests_per_s: float = 50.0
    burst: int = 400
    upload_bytes: int = 64 << 20
    upload_keep_s: float = 3600.0
    num_uploads: int = 1000
    max_waiting: int = 256
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        open_to = [self.host] if self.host not in LOOPBACK else []
        open_to += self.names
        if open_to and not self.token:
            raise UsageError(
                f"{open_to[0]}: others can reach this address, so it needs a token: --token SECRET, or CLIPVIP_TOKEN "
                "in the environment"
            )
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise UsageError(
                f"a token of {len(self.token)} characters can be guessed: take {MIN_TOKEN} or more "
                '(python -c "import secrets; print(secrets.token_urlsafe())")'
            )

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that a request may call this server by; None: any, where a token keeps others out."""
        if self.host not in LOOPBACK:
            return None
        return frozenset((*LOOPBACK, *(name.lower() for name in self.names)))


def cache_folder(uri: str) -> Path:
    """Where the server of an index keeps what it can make again: in the user's cache folder."""
    where = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
    return user_cache() / f"serve-{sha256(where.encode()).hexdigest()[:12]}"
