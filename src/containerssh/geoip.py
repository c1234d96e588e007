"""GeoIP lookup: the country of an IP address (``observability.md`` section 8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from containerssh.config.services import GeoIPConfig
from containerssh.core.codes import GeoIPCode
from containerssh.core.errors import ConfigError, describe
from containerssh.core.metrics import NOWHERE


def countries(config: GeoIPConfig) -> Callable[[str], str]:
    """
    Return a function that maps an IP address to its country, as two capital letters (ISO 3166-1), or ``XX`` if unknown.
    The file is read into memory, so it may be replaced at any time. Blocking; call it in a thread.

    Raises:
        ConfigError: the file cannot be read.
    """
    if config.provider == "dummy":
        return lambda _: NOWHERE
    import maxminddb

    try:
        # Not memory-mapped: truncating a mapped file would kill the process (SIGBUS).
        database = maxminddb.open_database(config.maxmind_geoip2_file, maxminddb.MODE_MEMORY)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as exc:
        text = f"geoip.maxmind-geoip2-file: {config.maxmind_geoip2_file} cannot be used ({describe(exc)})"
        raise ConfigError(GeoIPCode.CONFIG_ERROR, text) from exc

    @lru_cache(4096)
    def country_of(host: str) -> str:
        try:
            # A zone index only names the interface.
            found = database.get(host.partition("%")[0])
        except (ValueError, maxminddb.InvalidDatabaseError):
            return NOWHERE
        country = found.get("country") if isinstance(found, dict) else None
        code = country.get("iso_code") if isinstance(country, dict) else None
        return code if isinstance(code, str) and len(code) == 2 and code.isalpha() and code.isascii() else NOWHERE

    return country_of
