"""What nobody is shown, neither in a dump of the configuration nor in a sentence about it.

Whole settings: SECRETS. And of tables of header fields and of query parameters (what a health check sends, what a route wants, sets, adds
or answers with) every value

- whose name has one of WORDS in it: it is a credential wherever it goes;
- that has something from the environment in it: whoever keeps a text out of the file has a reason.

Other tables of names and values are labels (`metadata`, `subset`): they are shown in many places and keep no secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbd.cluster.cluster import EndpointPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.config.daemon import AdminPolicy
from lbd.config.text import Expanded
from lbd.policy import MASK, Secret
from lbd.routing.conditions import PRESENT
from lbd.routing.route import RoutePolicy

if TYPE_CHECKING:
    from lbd.config.fields import Field

__all__ = ["SECRETS", "WORDS", "guarded", "veiled"]

SECRETS = {(AdminPolicy, "token"), (StickyPolicy, "secret")}
LABELS = {(EndpointPolicy, "metadata"), (RoutePolicy, "subset")}
# Authorization and Proxy-Authorization, Cookie and Set-Cookie, X-Auth-Token, Client-Secret, X-Api-Key, api_key, ...
WORDS = ("authorization", "cookie", "token", "secret", "password", "credential", "api-key", "apikey")


def guarded(policy: type, field: str, name: str, text: str) -> str:
    """A value of a table as its policy keeps it."""
    if (policy, field) in LABELS or text == PRESENT:
        return str(text)
    is_secret = isinstance(text, Expanded) or any(word in name.lower().replace("_", "-") for word in WORDS)
    return Secret(text) if is_secret else str(text)


def veiled(field: Field, value: Any) -> Any:  # noqa: ANN401 - whatever a policy holds
    """It, or what is shown of it."""
    if field.form not in ("pairs", "conditions"):
        return value
    return tuple((name, MASK if isinstance(text, Secret) else text) for name, text in value)
